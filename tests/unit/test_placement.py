"""Placement groups from the user's side, without a session: every bad value is named before anything is asked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import actorlite as al
from actorlite.placement import PlacementGroup
from actorlite.wire.groups import GroupShape

GROUP = PlacementGroup(GroupShape("g1", ((("CPU", 10_000),),)))


def begin(work: Coroutine[Any, Any, Any]) -> None:
    """Its first step."""
    try:
        work.send(None)
    finally:
        work.close()


BAD: list[tuple[Callable[[], Coroutine[Any, Any, Any]], type[Exception], str]] = [
    # what `placement_group` is given (PG-1 to PG-4); all of it is in test_strategies.py
    (lambda: al.placement_group([]), ValueError, r"bundles=\[\] is empty: give at least one bundle"),
    (lambda: al.placement_group([{}]), ValueError, r"bundles\[0\] is an empty dict: give it what it reserves"),
    (lambda: al.placement_group([{"CPU": 1}], "pack"), ValueError, r"strategy='pack' must be one of .*'PACK'\?"),  # type: ignore[arg-type]
    (lambda: al.placement_group([{"CPU": 1}], lifetime="ever"), ValueError, r"lifetime='ever' must be .*: leave it"),  # type: ignore[arg-type]
    (lambda: al.placement_group([{"CPU": 1}], name=3), TypeError, r"name must be a str, not 3 .*: leave it out"),  # type: ignore[arg-type]
    (
        lambda: al.placement_group([{"CPU": 1}], bundle_label_selector=[{}, {}]),
        ValueError,
        r"bundle_label_selector has 2 entries for 1 bundles: give one for each",
    ),
    # waiting (PG-5, PG-6)
    (lambda: GROUP.ready("5"), TypeError, r"timeout must be a number of seconds or None, not '5'"),  # type: ignore[arg-type]
    (lambda: GROUP.ready(True), TypeError, r"timeout must be a number of seconds or None, not True"),
    (lambda: GROUP.ready(-1), ValueError, r"timeout=-1 must not be negative: give 0 to look once, None to wait"),
    (lambda: GROUP.wait(float("nan")), ValueError, r"timeout=nan must not be negative: give 0 to look once"),
    # the others (PG-11, PG-12)
    (
        lambda: al.remove_placement_group(None),
        TypeError,
        r"remove_placement_group\(\) takes a .*, not None .*: give wh",
    ),  # type: ignore[arg-type]
    (lambda: al.remove_placement_group("g1"), TypeError, r"takes a PlacementGroup, not 'g1' of type str: give what"),  # type: ignore[arg-type]
    (lambda: al.placement_group_table("g1"), TypeError, r"placement_group_table\(\) takes a .*, not 'g1' .*: give wh"),  # type: ignore[arg-type]
    (lambda: al.get_placement_group(""), ValueError, r"name='' is empty: give the name that the group was made with"),
    (lambda: al.get_placement_group(3), TypeError, r"name must be a str, not 3 of type int: give the name that the g"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "error", "text"), BAD)
def test_a_bad_value_names_the_argument_and_the_remedy(
    make: Callable[[], Coroutine[Any, Any, Any]], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        begin(make())
