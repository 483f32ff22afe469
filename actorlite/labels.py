"""Labels of nodes and what selects by them: `{"region": "in(eu, us)", "spot": "!true"}`.

Names and values have Kubernetes' syntax. All terms of a selector must hold; a negated term also holds for a node that
does not have the label at all, as in Kubernetes and Ray.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct

NAME_CHARS = 63
PREFIX_CHARS = 253

OURS = "actorlite.io/"
RESERVED = OURS, "ray.io/"
"""Prefixes of labels that nodes set themselves."""
NODE_ID = f"{OURS}node-id"
ACCELERATOR_TYPE = f"{OURS}accelerator-type"

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_SET = r"(?s)(!?)in\s*\((.*)\)"
_SYNTAX = "write a value, '!value', 'in(a, b)' or '!in(a, b)'"


def check_labels(where: str, labels: Any) -> None:
    """What a node is told to be like. Raises `TypeError` and `ValueError` that name `where` and the entry."""
    if not isinstance(labels, dict):
        raise TypeError(f"{where} must be a dict of names and values, not {labels!r} of type {type(labels).__name__}")
    for name, value in labels.items():
        _check_name(where, name)
        if not isinstance(value, str):
            raise TypeError(
                f"{where}[{name!r}] must be a str, not {value!r} of type {type(value).__name__}: write '{value}'"
            )
        if name.startswith(RESERVED):
            prefix = name.partition("/")[0]
            raise ValueError(f"{where} key {name!r}: {prefix}/ is reserved for labels that nodes set themselves")
        if value:
            _check_value(f"{where}[{name!r}]={value!r}", value)


def own_labels(node: str, accelerator_types: Collection[str]) -> dict[str, str]:
    """What every node says of itself: who it is, and what its GPUs are when they are all of one kind."""
    labels = {NODE_ID: node}
    if len(accelerator_types) == 1:
        (kind,) = accelerator_types
        if _is_value(kind):
            labels[ACCELERATOR_TYPE] = kind
    return labels


def _check_name(where: str, name: Any) -> None:
    """`name` or `prefix/name`."""
    if not isinstance(name, str):
        raise TypeError(f"{where} must have names that are str, not {name!r} of type {type(name).__name__}")
    prefix, slash, rest = name.rpartition("/")
    if slash and (len(prefix) > PREFIX_CHARS or not re.fullmatch(_PREFIX, prefix)):
        raise ValueError(
            f"{where} key {name!r}: before the / stands a DNS name of at most {PREFIX_CHARS} characters, such as "
            "example.com"
        )
    if not _is_value(rest):
        raise ValueError(f"{where} key {name!r}: {_RULE}")


def _check_value(where: str, value: str, more: str = "") -> None:
    if not _is_value(value):
        raise ValueError(f"{where}: {_RULE}{more}")


def _is_value(text: str) -> bool:
    return len(text) <= NAME_CHARS and re.fullmatch(_NAME, text) is not None


_RULE = f"use 1 to {NAME_CHARS} letters, digits, - _ and . with a letter or digit at both ends"


class Term(Struct, frozen=True):
    name: str
    values: frozenset[str]
    negated: bool = False

    def holds(self, labels: Mapping[str, str]) -> bool:
        return (labels.get(self.name) in self.values) is not self.negated

    def __str__(self) -> str:
        return f"{self.name} {'not ' if self.negated else ''}in ({', '.join(sorted(self.values))})"


class LabelSelector(Struct, frozen=True):
    """Parsed; equal when it means the same. Make it with `parse`; `LabelSelector()` takes every node."""

    terms: frozenset[Term] = frozenset()

    @classmethod
    def parse(cls, where: str, selector: Any) -> LabelSelector:
        """Raises `TypeError` or `ValueError` that names `where` and says what to write."""
        if not isinstance(selector, Mapping):
            raise TypeError(
                f"{where} must be a dict of label names and what they must be, not {selector!r} of type "
                f"{type(selector).__name__}"
            )
        return cls(frozenset([_term(where, name, value) for name, value in selector.items()]))

    def matches(self, labels: Mapping[str, str]) -> bool:
        return not self.terms or all(term.holds(labels) for term in self.terms)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __str__(self) -> str:
        return ", ".join(sorted(str(term) for term in self.terms)) or "any label"


ANY_LABELS = LabelSelector()


def _term(where: str, name: Any, value: Any) -> Term:
    _check_name(where, name)
    here = f"{where}[{name!r}]"
    if not isinstance(value, str):
        raise TypeError(f"{here} must be a str, not {value!r} of type {type(value).__name__}: {_SYNTAX}")
    text = value.strip()
    found = re.fullmatch(_SET, text)
    if found is None:
        negated, values = text.startswith("!"), [text.removeprefix("!").strip()]
    else:
        negated, values = bool(found[1]), [each.strip() for each in found[2].split(",")]
    if not all(values):
        raise ValueError(f"{here}={value!r} has an empty value: {_SYNTAX}")
    for each in values:
        _check_value(f"{here}={value!r}", each, f"; {_SYNTAX}")
    return Term(name, frozenset(values), negated)
