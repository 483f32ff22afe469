"""Labels of nodes and what selects by them: `{"region": "in(eu, us)", "spot": "!true"}`.

Names and values have Kubernetes' syntax. All terms of a selector must hold; a negated term also holds for a node that
does not have the label at all, as in Kubernetes and Ray.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

NAME_CHARS = 63
PREFIX_CHARS = 253

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_SET = r"(?s)(!?)in\s*\((.*)\)"
_SYNTAX = "write a value, '!value', 'in(a, b)' or '!in(a, b)'"


def check_label_name(where: str, name: Any) -> None:
    """Raise `TypeError` or `ValueError` that names `where`, unless `name` is `name` or `prefix/name`."""
    if not isinstance(name, str):
        raise TypeError(f"{where} must have names that are str, not {name!r} of type {type(name).__name__}")
    prefix, slash, rest = name.rpartition("/")
    if len(rest) > NAME_CHARS or not re.fullmatch(_NAME, rest):
        raise ValueError(
            f"{where}: the label name {name!r} must be letters, digits, '-', '_' and '.' between letters or digits, "
            f"at most {NAME_CHARS} of them"
        )
    if slash and (len(prefix) > PREFIX_CHARS or not re.fullmatch(_PREFIX, prefix)):
        raise ValueError(
            f"{where}: what is before the '/' of the label name {name!r} must be a DNS name of at most {PREFIX_CHARS} "
            "characters, in small letters"
        )


def check_label_value(where: str, value: str) -> None:
    """Raise `ValueError` that names `where`, unless `value` can be the value of a label."""
    if len(value) > NAME_CHARS or not re.fullmatch(_NAME, value):
        raise ValueError(
            f"{where}: the label value {value!r} must be 1 to {NAME_CHARS} letters, digits, '-', '_' and '.' between "
            f"letters or digits; in a selector {_SYNTAX}"
        )


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
    check_label_name(where, name)
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
        check_label_value(f"{here}={value!r}", each)
    return Term(name, frozenset(values), negated)
