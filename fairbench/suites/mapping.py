"""The YAML files of suites and of tuned settings: plain values only, and few of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fairbench.errors import CorruptFile, InvalidInput
from fairbench.files import open_regular

__all__ = ["read_mapping"]

# Suites are written by hand. A file that is larger, or unfolds to more through YAML's aliases, is refused unbuilt.
MAX_SUITE_BYTES = 1_000_000
MAX_SUITE_VALUES = 100_000


def read_mapping(path: Path, where: str) -> dict[Any, Any]:
    """Read a YAML file of plain values; errors begin with `where`.

    Raises InvalidInput for a file that is, or unfolds to, more than is allowed, and CorruptFile for one that is not
    YAML, is not a mapping, or gives a key twice.
    """
    with open_regular(path) as file:
        content = file.read(MAX_SUITE_BYTES + 1)
    if len(content) > MAX_SUITE_BYTES:
        raise InvalidInput(f"{where}: larger than the {MAX_SUITE_BYTES} bytes allowed")
    try:
        tree = yaml.load(content.decode("utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # dates and numbers raise their own
        raise CorruptFile(f"{where}: {' '.join(str(error).split())[:300]}") from None
    if not _is_small(tree):
        raise InvalidInput(f"{where}: unfolds to more than the {MAX_SUITE_VALUES} values allowed")
    if not isinstance(tree, dict):
        raise CorruptFile(f"{where}: expected a mapping at the top level")
    return tree


class _Loader(yaml.SafeLoader):
    """Builds plain values only, refuses a key that is given twice, and stops at merges (`<<`) that multiply."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping as it is written, before merges give it keys of their own."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            written = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if written is not None and written in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(written)
        return node

    def construct_scalar(self, node: Any) -> Any:
        """Refuse numbers that YAML 1.1 does not read as they look: 010 would be 8, and 1:30 would be 90."""
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and re.fullmatch("[-+]?0[0-9_]+|.*:.*", node.value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is no decimal number, and as text needs quotes", node.start_mark
            )
        return super().construct_scalar(node)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_SUITE_VALUES:
            raise yaml.YAMLError(f"merges make more than the {MAX_SUITE_VALUES} values allowed")


def _is_small(tree: Any) -> bool:
    """Whether a tree has few values, keys included; a value that stands in several places counts at each."""
    waiting, found = [tree], 1
    while waiting:
        node = waiting.pop()
        inner = (
            [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list | tuple | set) else ()
        )
        found += len(inner)
        if found > MAX_SUITE_VALUES:
            return False
        waiting.extend(inner)
    return True
