"""The shape of a callable's parameters, checked where the call is made.

A `CallShape` is plain data: it travels with a handle, so that a wrong call fails at the caller in a process that does
not have the class.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actorlite.loading import nearest

_UNBOUNDED = sys.maxsize
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class CallShape:
    """What a call may pass. `check` accepts exactly what Python itself would bind."""

    positional: tuple[str, ...] = ()
    positional_only: int = 0
    """How many of `positional` cannot be given by keyword."""
    required: int = 0
    """How many of `positional` have no default."""
    keyword_only: tuple[str, ...] = ()
    required_keyword_only: tuple[str, ...] = ()
    varargs: bool = False
    varkw: bool = False
    _low: int = field(init=False, repr=False, compare=False)
    _high: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The bounds that let a call without keywords pass on two comparisons.
        low = _UNBOUNDED if self.required_keyword_only else self.required
        object.__setattr__(self, "_low", low)
        object.__setattr__(self, "_high", _UNBOUNDED - 1 if self.varargs else len(self.positional))

    def __reduce__(self) -> tuple[Any, ...]:
        return CallShape, (
            self.positional,
            self.positional_only,
            self.required,
            self.keyword_only,
            self.required_keyword_only,
            self.varargs,
            self.varkw,
        )

    @classmethod
    def from_callable(cls, function: Callable[..., Any], skip_first: bool) -> CallShape:
        """The shape of `function`, without its first parameter when `skip_first`.

        A callable that does not tell its signature (some builtins) gets a shape that accepts every call.
        """
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError):
            return cls(varargs=True, varkw=True)
        if skip_first and parameters and parameters[0].kind in _POSITIONAL:
            del parameters[0]
        positional = [each for each in parameters if each.kind in _POSITIONAL]
        keyword_only = [each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
        return cls(
            positional=tuple(each.name for each in positional),
            positional_only=sum(each.kind is inspect.Parameter.POSITIONAL_ONLY for each in positional),
            required=sum(each.default is inspect.Parameter.empty for each in positional),
            keyword_only=tuple(each.name for each in keyword_only),
            required_keyword_only=tuple(each.name for each in keyword_only if each.default is inspect.Parameter.empty),
            varargs=any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters),
            varkw=any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters),
        )

    def check(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise the `TypeError` that calling `name(*args, **kwargs)` would raise."""
        if not kwargs and self._low <= len(args) <= self._high:
            return
        problem = self._problem(len(args), kwargs)
        if problem is not None:
            raise TypeError(f"{name}() {problem}; its signature is {name}{self}")

    def __str__(self) -> str:
        parts = [each if i < self.required else f"{each}=..." for i, each in enumerate(self.positional)]
        if self.positional_only:
            parts.insert(self.positional_only, "/")
        if self.varargs:
            parts.append("*args")
        elif self.keyword_only:
            parts.append("*")
        parts += [each if each in self.required_keyword_only else f"{each}=..." for each in self.keyword_only]
        if self.varkw:
            parts.append("**kwargs")
        return f"({', '.join(parts)})"

    def _problem(self, given: int, kwargs: Mapping[str, Any]) -> str | None:
        by_keyword = self.positional[self.positional_only :]
        for key in kwargs:
            if key in by_keyword:
                if self.positional.index(key) < given:
                    return f"got multiple values for argument {key!r}"
            elif key not in self.keyword_only and not self.varkw:
                if key in self.positional:
                    return f"got some positional-only arguments passed as keyword arguments: {key!r}"
                return f"got an unexpected keyword argument {key!r}{_nearest(key, (*by_keyword, *self.keyword_only))}"
        if given > len(self.positional) and not self.varargs:
            return self._too_many(given)
        # A name that is positional-only may be a free keyword beside **kwargs: it does not fill the parameter.
        missing = [
            each
            for i, each in enumerate(self.positional[: self.required])
            if i >= given and (i < self.positional_only or each not in kwargs)
        ]
        if missing:
            return f"missing {_count(len(missing), 'required positional argument')}: {_listed(missing)}"
        missing = [each for each in self.required_keyword_only if each not in kwargs]
        if missing:
            return f"missing {_count(len(missing), 'required keyword-only argument')}: {_listed(missing)}"
        return None

    def _too_many(self, given: int) -> str:
        most = len(self.positional)
        bounds = str(most) if most == self.required else f"from {self.required} to {most}"
        noun = "argument" if most == 1 else "arguments"
        return f"takes {bounds} positional {noun} but {given} {'was' if given == 1 else 'were'} given"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    quoted = [repr(each) for each in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
