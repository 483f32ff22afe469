from __future__ import annotations

from typing import Any

import pytest

from actorlite.labels import ANY_LABELS, LabelSelector, own_labels

EU = {"region": "eu", "zone": "eu-1", "actorlite.dev/kind": "big"}


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return LabelSelector.parse("label_selector", selector).matches(labels)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"region": "eu"}, True),
        ({"region": " eu "}, True),
        ({"region": "us"}, False),
        ({"region": "!us"}, True),
        ({"region": "!eu"}, False),
        ({"region": "in(us, eu)"}, True),
        ({"region": "in(us)"}, False),
        ({"region": "!in(us,eu)"}, False),
        ({"region": "!in(us)"}, True),
        ({"region": "eu", "zone": "eu-2"}, False),
        ({"region": "eu", "zone": "in(eu-1,eu-2)", "actorlite.dev/kind": "!small"}, True),
        ({"rack": "7"}, False),
        ({"rack": "!7"}, True),
        ({"rack": "!in(7)"}, True),
        ({"rack": "in(7)"}, False),
    ],
)
def test_a_selector_takes_nodes_by_all_its_terms(selector: dict[str, str], expected: bool) -> None:
    assert selects(selector, EU) is expected


def test_selectors_are_equal_by_meaning() -> None:
    one = LabelSelector.parse("x", {"a": "in(1,2)", "b": "3"})
    assert one == LabelSelector.parse("x", {"b": "in(3)", "a": "in( 2, 1 )"})
    assert hash(one) == hash(LabelSelector.parse("x", {"b": "3", "a": "in(2,1)"}))
    assert str(one) == "a in (1, 2), b in (3)"
    assert not ANY_LABELS
    assert str(ANY_LABELS) == "any label"


@pytest.mark.parametrize(
    ("selector", "error", "text"),
    [
        ([("a", "b")], TypeError, r"option label_selector must be a dict"),
        ({1: "b"}, TypeError, r"option label_selector must have names that are str, not 1"),
        ({"a": 1}, TypeError, r"option label_selector\['a'\] must be a str, not 1 of type int: write a value"),
        ({"a": ""}, ValueError, r"option label_selector\['a'\]='' has an empty value: write a value, '!value'"),
        ({"a": "!"}, ValueError, "has an empty value"),
        ({"a": "in()"}, ValueError, "has an empty value"),
        ({"a": "in(b,,c)"}, ValueError, "has an empty value"),
        ({"a": "in(b"}, ValueError, r"'in\(b': use 1 to 63 letters.*; write a value"),
        ({"a": "!!b"}, ValueError, "'!!b': use 1 to 63 letters"),
        ({"a": "b c"}, ValueError, "'b c': use"),
        ({"a": "b" * 64}, ValueError, "use 1 to 63 letters"),
        ({"a" * 64: "b"}, ValueError, "key 'a+': use 1 to 63 letters"),
        ({"-a": "b"}, ValueError, "key '-a': use 1 to 63 letters"),
        ({"": "b"}, ValueError, "key '': use 1 to 63 letters"),
        ({"X/a": "b"}, ValueError, "key 'X/a': before the / stands a DNS name"),
        ({"p" * 254 + "/a": "b"}, ValueError, "a DNS name of at most 253"),
        ({"/a": "b"}, ValueError, "stands a DNS name"),
    ],
)
def test_a_bad_selector_is_refused_with_its_name_and_what_to_write(
    selector: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        LabelSelector.parse("option label_selector", selector)


def test_nodes_say_who_they_are_and_what_their_gpus_are() -> None:
    assert own_labels("ab12", []) == {"actorlite.io/node-id": "ab12"}
    assert own_labels("ab12", ["A100"]) == {"actorlite.io/node-id": "ab12", "actorlite.io/accelerator-type": "A100"}
    assert own_labels("ab12", ["A100", "T4"]) == own_labels("ab12", ["not a value"]) == {"actorlite.io/node-id": "ab12"}
