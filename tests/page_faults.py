"""What a reader would call a fault of a page, as scripts that a browser runs on it: each returns a list of faults."""

from __future__ import annotations

__all__ = ["CONTRASTS", "FAULTS"]

# Texts that overlap, numbers and options of commands that break across lines, and texts beyond the edge of their chart.
FAULTS = """() => {
  const faults = [];
  const seen = (node) => node.getClientRects().length > 0;
  for (const svg of [...document.querySelectorAll('svg')].filter(seen)) {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]);
    boxes.forEach(([text, box], number) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1) faults.push(`cut: ${text}`);
      if (box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        faults.push(`cut: ${text}`);
      for (const [other, beside] of boxes.slice(number + 1))
        if (Math.min(box.right, beside.right) - Math.max(box.left, beside.left) > 1 &&
            Math.min(box.bottom, beside.bottom) - Math.max(box.top, beside.top) > 4)
          faults.push(`overlap: ${text} and ${other}`);
    });
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement || !seen(node.parentElement) || node.parentElement.closest('pre, code, svg')) continue;
    for (const found of node.textContent.matchAll(/[0-9][0-9.,]*(?:\\s±\\s[0-9.]+)?\\s%|\\[[0-9.]+, [0-9.]+\\]/g)) {
      const range = document.createRange();
      range.setStart(node, found.index);
      range.setEnd(node, found.index + found[0].length);
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (lines.size > 1) faults.push(`broken: ${found[0]}`);
    }
  }
  for (const code of [...document.querySelectorAll('pre, code')].filter(seen)) {
    const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      for (const found of walker.currentNode.textContent.matchAll(/--[a-z-]+/g)) {
        const range = document.createRange();
        range.setStart(walker.currentNode, found.index);
        range.setEnd(walker.currentNode, found.index + found[0].length);
        if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1)
          faults.push(`broken: ${found[0]}`);
      }
    }
  }
  return faults;
}"""

# The contrast of every text, generated ones and those in closed details included, with what is behind it, as WCAG 2.1
# computes it: 4.5 is the least for level AA.
CONTRASTS = """() => {
  for (const closed of document.querySelectorAll('details')) closed.open = true;
  const parse = (colour) => {
    const part = colour.match(/[\\d.]+/g).map(Number);
    return colour.startsWith('color(srgb') ? part.slice(0, 3).map((c) => 255 * c).concat(part[3] ?? 1) : part;
  };
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => [r, g, b].map((c) => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const low = [];
  const judge = (node, style, text) => {
    const ink = parse(node.closest('svg') ? style.fill : style.color);
    let behind = node, ground = [0, 0, 0, 0];
    while (behind && ground[3] === 0) {
      ground = parse(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    }
    const [bright, dim] = [light(ink), light(ground)].sort((a, b) => b - a);
    const ratio = (bright + 0.05) / (dim + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${node.tagName} ${text.trim().slice(0, 40)}`);
  };
  for (const node of document.querySelectorAll('body *')) {
    if (!node.getClientRects().length || node.closest('[aria-hidden]')) continue;
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (own) judge(node, getComputedStyle(node), node.textContent);
    for (const place of ['::before', '::after']) {
      const style = getComputedStyle(node, place);
      if (style.content.startsWith('"') && style.content.length > 2) judge(node, style, style.content);
    }
  }
  return low;
}"""
