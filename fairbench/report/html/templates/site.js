"use strict";
(() => {
  // Themes: the style sheet's dark half follows the system, or is switched on or off by its media query.
  const THEMES = { system: "(prefers-color-scheme: dark)", light: "not all", dark: "all" };
  const dark = [...document.styleSheets[0].cssRules].filter((rule) => rule.media && rule.conditionText.includes("prefers-color-scheme"));
  const button = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const choose = (theme) => {
    for (const rule of dark) rule.media.mediaText = THEMES[theme];
    document.documentElement.style.colorScheme = theme === "system" ? "light dark" : theme;
    button.textContent = `Theme: ${theme}`;
    button.dataset.theme = theme;
  };
  button.hidden = false;
  choose(remembered() in THEMES ? remembered() : "system");
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(button.dataset.theme) + 1) % names.length];
    try { localStorage.setItem("theme", next); } catch { /* a private window forgets */ }
    choose(next);
  });

  // Tables: a heading's button sorts each body by its column; empty cells stay last.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const turn = (table, heading) => {
    const now = heading.getAttribute("aria-sort");
    const direction = now === null ? heading.dataset.first : now === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction);
    sort(table, heading);
  };
  const sort = (table, heading) => {
    const direction = heading.getAttribute("aria-sort");
    const sign = direction === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      const rows = [...body.rows].map((row) => [key(row, heading.cellIndex), row]);
      rows.sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : sign * compare(a, b)));
      body.append(...rows.map(([, row]) => row));
    }
  };

  for (const form of document.querySelectorAll("form[data-table]")) {
    const table = document.getElementById(form.dataset.table);
    const meaning = document.querySelector("[data-meaning]");
    const filters = [...form.querySelectorAll("select[data-filter]")];
    const box = form.querySelector("input[data-search]");
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
    const fixed = 3; // rank, name and worst class stay
    const hideConstant = (fitting) => {
      for (let place = fixed + 1; place <= table.tHead.rows[0].cells.length; place++) {
        const texts = new Set(fitting.map((row) => row.cells[place - 1].textContent));
        table.classList.toggle(`no-${place}`, fitting.length > 1 && texts.size === 1);
      }
    };
    const apply = () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      const fitting = [];
      for (const row of rows) {
        const fits = filters.every((filter) => {
          const has = row.dataset[filter.dataset.filter];
          return !filter.value || has === filter.value || (filter.dataset.filter === "level" && has.split(" ").includes(filter.value));
        });
        if (fits) fitting.push(row);
        row.hidden = !(fits && words.every((word) => row.dataset.search.includes(word)));
        shown += !row.hidden;
      }
      hideConstant(fitting);
      form.querySelector("[data-count]").textContent = `${shown} of ${rows.length} rows`;
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", apply);
    const chosen = (name) => form.querySelector(`[data-filter="${name}"]`).value;
    form.addEventListener("change", (event) => {
      if (!event.target.dataset.filter) return;
      sort(table, table.tHead.querySelector("[aria-sort]"));
      for (const lead of document.querySelectorAll("[data-lead]")) {
        lead.hidden = lead.dataset.lead !== chosen("attack") || chosen("checkpoint") !== "best";
      }
    });
    for (const heading of table.tHead.rows[0].cells) {
      const sorter = heading.querySelector("button");
      const tell = () => { meaning.textContent = `${sorter.textContent}: ${sorter.title}`; };
      sorter.addEventListener("click", () => turn(table, heading));
      sorter.addEventListener("focus", tell);
      sorter.addEventListener("mouseenter", tell);
    }
    apply();
  }

  // Details that a wide screen opens; a phone shows the table first.
  for (const part of document.querySelectorAll("details[data-wide]")) part.open = matchMedia("(min-width: 40rem)").matches;

  // Panels: a select shows the one of its name.
  for (const chooser of document.querySelectorAll("select[data-switch]")) {
    const show = () => {
      for (const panel of document.querySelectorAll("[data-panel]")) {
        if (panel.dataset.panel === chooser.dataset.switch) panel.hidden = panel.dataset.name !== chooser.value;
      }
    };
    chooser.addEventListener("input", show);
    show();
  }
})();
