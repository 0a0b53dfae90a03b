"""YAML as specifications use it: plain values, no key twice, no unfolding without end."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"
# Values of a document with every alias written out: far above any study's, far below what fills
# memory.
MOST_VALUES = 100_000
# YAML 1.1, which PyYAML reads, takes 1e6 and 1.0e6 for text: its exponents need a sign.
FLOAT = "tag:yaml.org,2002:float"
EXPONENT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


class PlainLoader(yaml.SafeLoader):
    """YAML's plain values; a key that a mapping has twice, and a bomb of aliases, are refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """See yaml.SafeLoader."""
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != MERGE:
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key_node.value!r} twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def get_single_node(self) -> yaml.Node | None:
        """See yaml.SafeLoader."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and count_values(node, {}) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"aliases that unfold to more than {MOST_VALUES:,} values", None
            )
        return node


class PlainDumper(yaml.SafeDumper):
    """Writes what `PlainLoader` reads: text that looks like a number is quoted."""


for _class in (PlainLoader, PlainDumper):
    _class.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))


def count_values(node: yaml.Node, counted: dict[int, int | None]) -> int:
    """Values below a node with every alias written out.

    Raises:
        yaml.YAMLError: an alias stands for what it is itself a part of.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in counted:
        known = counted[id(node)]
        if known is None:
            raise yaml.constructor.ConstructorError(
                None, None, "an alias for what it is a part of", node.start_mark
            )
        return known
    counted[id(node)] = None
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    counted[id(node)] = total = 1 + sum(count_values(part, counted) for part in parts)
    return total


def dump_yaml(values: Any) -> str:
    """The values as YAML, which `parse_yaml` reads again; mappings keep their order."""
    return str(yaml.dump(values, Dumper=PlainDumper, sort_keys=False))


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text.

    Raises:
        yaml.YAMLError: the text is no YAML, is nested too deeply, has a key twice or unfolds
            without end.
    """
    try:
        return yaml.load(text, PlainLoader)  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
