"""The options of detached actors, which the daemon reads."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from msgspec import structs

import actorlite as al
from actorlite.actor import definition_of
from actorlite.control.keeper import options_of
from actorlite.errors import ActorliteError
from actorlite.options import ActorOptions
from actorlite.wire.control import DetachedActor
from actorlite.wire.groups import GroupShape


class Plain(al.Actor, concurrency_groups={"io": 2}):
    pass


def actor(options: bytes) -> DetachedActor:
    fields: dict[str, Any] = dict.fromkeys(DetachedActor.__struct_fields__, "")
    return structs.replace(DetachedActor(**fields), name="hits", options=options)


def naming(module: str, name: str) -> bytes:
    """A pickle that calls what it names, with one text."""
    found = b"\x80\x04"
    for each in (module, name):
        found += b"\x8c" + bytes([len(each)]) + each.encode()
    return found + b"\x93" + b"\x8c\x04true" + b"\x85R."


GROUP = al.PlacementGroup(GroupShape("0" * 16, ((("CPU", 10_000),),), "PACK", "", "", ((("zone", "a"),),)))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"num_cpus": 1, "num_gpus": 0.5, "memory": 10, "resources": {"x": 1}, "accelerator_type": "A100"},
        {"name": "n", "namespace": "s", "lifetime": "detached", "get_if_exists": True, "max_restarts": 3},
        {
            "max_task_retries": 1,
            "max_concurrency": 3,
            "mailbox": al.Mailbox(10),
            "stop_timeout": 3,
            "schedule_timeout": 1,
        },
        {"label_selector": {"a": "in(b, c)"}, "fallback_strategy": [{"label_selector": {"a": "!b"}}]},
        {"scheduling_strategy": "SPREAD"},
        {"scheduling_strategy": al.SpreadStrategy()},
        {"scheduling_strategy": al.NodeAffinityStrategy("a" * 16, soft=True)},
        {"scheduling_strategy": al.PlacementGroupStrategy(GROUP, 0, capture_children=True)},
    ],
)
def test_all_options_are_read(given: dict[str, Any]) -> None:
    options = definition_of(Plain).options.merged(**given)
    assert isinstance(options, ActorOptions)
    assert options_of(actor(pickle.dumps(options))) == options


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (naming("os", "system"), "os.system is not loaded here"),
        (naming("actorlite.control.persistence", "os.system"), "os.system is not loaded here"),
        (naming("actorlite.control.persistence", "_remove"), "_remove is not loaded here"),
        (naming("actorlite.options", "ActorOptions.__init__"), "__init__ is not loaded here"),
        (b"", "EOFError"),
        (b"\x80\x04", "EOFError"),
        (b"\xff", "UnpicklingError"),
        (pickle.dumps(3), "are 3"),
    ],
)
def test_nothing_else_is(given: bytes, says: str) -> None:
    with pytest.raises(ActorliteError, match=says):
        options_of(actor(given))
