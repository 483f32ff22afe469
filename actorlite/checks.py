"""What single options may be: each check raises `TypeError` or `ValueError` that names the option and its value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from actorlite.mailboxes import Mailbox
from actorlite.resources import check_gpus, check_resources, to_units

Check = Callable[[str, Any], None]
DEFAULT_GROUP = "_default"
"""The name, as in Ray, of the concurrency group of calls that name none."""


def type_error(name: str, value: object, expected: str) -> TypeError:
    return TypeError(f"option {name} must be {expected}, not {value!r} of type {type(value).__name__}")


def want_quantity(name: str, value: Any) -> None:
    to_units(f"option {name}", value)


def want_gpus(name: str, value: Any) -> None:
    check_gpus(f"option {name}", value)


def want_resources(name: str, value: Any) -> None:
    check_resources(f"option {name}", value)


def want_object_store_memory(name: str, value: Any) -> None:
    raise ValueError(f"option {name}={value!r} is not implemented for tasks and actors: leave it out")


def want_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise type_error(name, value, "an int")


def want_count_from(least: int, unlimited: bool = False) -> Check:
    def check(name: str, value: Any) -> None:
        want_integer(name, value)
        if value < least and not (unlimited and value == -1):
            also = ", or -1 for no limit" if unlimited else ""
            raise ValueError(f"option {name}={value!r} must be at least {least}{also}")

    return check


def want_num_returns(name: str, value: Any) -> None:
    if value == "dynamic":
        raise ValueError(
            f"option {name}='dynamic' is not supported: a generator streams without it, and `async for` reads each "
            "item when it is there; for all items at once return a list"
        )
    if value != "streaming":
        want_count_from(0)(name, value)


def want_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise type_error(name, value, "True or False")


def want_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise type_error(name, value, "a str")


def want_nonempty_text(name: str, value: Any) -> None:
    want_text(name, value)
    if not value:
        raise ValueError(f"option {name}='' must not be empty: leave it out for none")


def want_one_of(*allowed: str) -> Check:
    def check(name: str, value: Any) -> None:
        want_text(name, value)
        if value not in allowed:
            raise ValueError(f"option {name}={value!r} must be one of {', '.join(map(repr, allowed))}")

    return check


def want_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise type_error(name, value, "a number of seconds")
    if math.isnan(value) or value <= 0:
        raise ValueError(f"option {name}={value!r} must be above 0 seconds: leave it out for no limit")


def want_retry_exceptions(name: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, list | tuple):
        raise type_error(name, value, "True, False, or a list of exception classes")
    for each in value:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise ValueError(f"option {name} contains {each!r}, which is not a subclass of Exception")


def want_dict(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise type_error(name, value, "a dict")


def want_groups(name: str, value: Any) -> None:
    want_dict(name, value)
    for key, size in value.items():
        want_nonempty_text(f"{name} key", key)
        if key == DEFAULT_GROUP:
            raise ValueError(f"option {name} must not contain {key!r}: its limit is max_concurrency")
        want_count_from(1)(f"{name}[{key!r}]", size)


def want_mailbox(name: str, value: Any) -> None:
    if not isinstance(value, Mailbox):
        want_count_from(1)(name, value)


def want_anything(name: str, value: Any) -> None:
    """Environments are values of classes that this version does not have."""
