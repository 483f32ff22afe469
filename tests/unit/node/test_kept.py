"""What was written down of placement groups, as it is read again."""

from __future__ import annotations

import msgspec

from actorlite.node.kept import PREFIX, read, told
from actorlite.wire.groups import GroupShape

GANG = GroupShape("b1", ((("CPU", 10_000),),), "SPREAD", "gang", "team", ((("zone", "a"),),))
PLAIN = GroupShape("a2", ((("CPU", 5_000),), (("GPU", 10_000),)), namespace="team")


def written(shape: GroupShape) -> tuple[str, bytes]:
    return PREFIX + shape.group, msgspec.msgpack.encode(shape)


def test_groups_are_read_as_they_were_in_the_order_of_their_making() -> None:
    assert read([written(GANG), written(PLAIN)]) == ([GANG, PLAIN], [])
    assert read([]) == ([], [])


def test_what_cannot_be_read_is_named_and_costs_nothing_else() -> None:
    other = msgspec.msgpack.encode(["c3", "bundles"])
    shapes, lost = read([(PREFIX + "bad", b"\xc1"), written(PLAIN), (PREFIX + "c3", other)])
    assert shapes == [PLAIN]
    assert [text.partition(":")[0] for text in lost] == [
        "placement group bad, which cannot be read any more",
        "placement group c3, which cannot be read any more",
    ]


def test_an_entry_of_an_earlier_version_that_ends_sooner_is_read() -> None:
    early = msgspec.msgpack.encode(["b1", [[["CPU", 10_000]]], "SPREAD"])
    assert read([(PREFIX + "b1", early)]) == ([GroupShape("b1", ((("CPU", 10_000),),), "SPREAD")], [])


def test_people_are_told_id_name_and_namespace() -> None:
    assert told(GANG) == "b1 'gang' in namespace 'team'"
    assert told(PLAIN) == "a2 in namespace 'team'"
