"""Every bad value of placement, with the name of the argument and what to do instead."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from actorlite.options import ActorOptions, TaskOptions
from actorlite.resources import NodeResources, ResourceSet, check_node
from actorlite.strategies import (
    ANYWHERE,
    GroupRequest,
    NodeAffinityStrategy,
    PlacementGroupStrategy,
    SpreadStrategy,
    Where,
    group_request,
)

NODE = "0123456789abcdef"


@dataclass(frozen=True)
class Group:
    id: str
    sizes: tuple[ResourceSet, ...]


def size(**floats: float) -> ResourceSet:
    return ResourceSet.from_floats(floats)


GROUP = Group("g1", (size(CPU=2), size(GPU=1)))


def options(**keywords: Any) -> TaskOptions:
    return TaskOptions.make(**keywords)


def group(bundles: Any = ({"CPU": 1},), **keywords: Any) -> GroupRequest:
    given = {"strategy": "PACK", "name": "", "lifetime": None, "selectors": None, **keywords}
    return group_request(bundles, **given)


def node(**keywords: Any) -> None:
    check_node(NodeResources(**keywords))


BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    # bundles (PG-1, PG-2)
    (group, {"bundles": {"CPU": 1}}, TypeError, r"bundles must be a list of dicts, such as .*, not \{'CPU': 1\} of ty"),
    (group, {"bundles": None}, TypeError, r"bundles must be a list of dicts, such as \[\{\"CPU\": 1\}\], not None"),
    (group, {"bundles": "CPU"}, TypeError, r"bundles must be a list of dicts, such as .*, not 'CPU' of type str"),
    (group, {"bundles": {1}}, TypeError, r"bundles must be a list of dicts, such as .*, not \{1\} of type set"),
    (group, {"bundles": iter([])}, TypeError, r"bundles must be a list of dicts, such as .* of type list_iterator"),
    (group, {"bundles": []}, ValueError, r"bundles=\[\] is empty: give at least one bundle, such as"),
    (group, {"bundles": [{"CPU": 1}, {}]}, ValueError, r"bundles\[1\] is an empty dict: give it what it reserves"),
    (
        group,
        {"bundles": [[("CPU", 1)]]},
        TypeError,
        r"bundles\[0\] must be a dict of resource names and quantities, not",
    ),
    (group, {"bundles": [{"CPU": None}]}, TypeError, r"bundles\[0\]\['CPU'\] must be a number, not None"),
    (group, {"bundles": [{"CPU": 1}, {"x": [1]}]}, TypeError, r"bundles\[1\]\['x'\] must be a number, not \[1\]"),
    (
        group,
        {"bundles": [{"CPU": float("inf")}]},
        ValueError,
        r"bundles\[0\]\['CPU'\]=inf must be between 0 and 1e\+14",
    ),
    (
        group,
        {"bundles": [{"x": 1e15}]},
        ValueError,
        r"bundles\[0\]\['x'\]=1000000000000000.0 must be between 0 and 1e\+14",
    ),
    (group, {"bundles": [{"memory": -1}]}, ValueError, r"bundles\[0\]\['memory'\]=-1 must be between 0 and"),
    (group, {"bundles": [{"GPU": -0.5}]}, ValueError, r"bundles\[0\]\['GPU'\]=-0.5 must be between 0 and"),
    (group, {"bundles": [3]}, TypeError, r"bundles\[0\] must be a dict of resource names and quantities, not 3"),
    (group, {"bundles": [{1: 1}]}, TypeError, r"bundles\[0\] must have names that are str, not 1 of type int"),
    (group, {"bundles": [{"": 1}]}, ValueError, r"bundles\[0\] has an empty resource name: give it a name"),
    (group, {"bundles": [{"CPU": "1"}]}, TypeError, r"bundles\[0\]\['CPU'\] must be a number, not '1'"),
    (group, {"bundles": [{"CPU": True}]}, TypeError, r"bundles\[0\]\['CPU'\] must be a number, not True"),
    (group, {"bundles": [{"CPU": -1}]}, ValueError, r"bundles\[0\]\['CPU'\]=-1 must be between 0"),
    (group, {"bundles": [{"CPU": float("nan")}]}, ValueError, r"bundles\[0\]\['CPU'\]=nan must be between 0"),
    (group, {"bundles": [{"CPU": 0.00001}]}, ValueError, r"bundles\[0\]\['CPU'\]=1e-05 is below the granularity"),
    (group, {"bundles": [{"CPU": 0, "GPU": 0}]}, ValueError, r"bundles\[0\]=.* reserves nothing: give at least one"),
    (group, {"bundles": [{"GPU": 1.5}]}, ValueError, r"bundles\[0\]\['GPU'\]=1.5: above 1 it must be a whole number"),
    (group, {"bundles": [{"object_store_memory": 1}]}, ValueError, r"bundles\[0\] must not contain 'object_store_mem"),
    (group, {"bundles": [{"bundle": 1}]}, ValueError, r"bundles\[0\] must not contain 'bundle': the name is reserved"),
    # strategy (PG-3)
    (group, {"strategy": None}, TypeError, r"strategy must be one of 'PACK', .*, not None of type NoneType"),
    (group, {"strategy": ["PACK"]}, TypeError, r"strategy must be one of 'PACK', .*, not \['PACK'\] of type list"),
    (group, {"strategy": ""}, ValueError, r"strategy='' must be one of 'PACK', 'SPREAD', 'STRICT_PACK', 'STRICT_SPR"),
    (group, {"strategy": "PACKED"}, ValueError, r"strategy='PACKED' must be one of .*; did you mean 'PACK'\?"),
    (
        group,
        {"strategy": "strict_pack"},
        ValueError,
        r"strategy='strict_pack' must be one of 'PACK', .*mean 'STRICT_PACK'",
    ),
    (group, {"strategy": "ANY"}, ValueError, r"strategy='ANY' must be one of 'PACK', 'SPREAD', 'STRICT_PACK'"),
    # name, lifetime (PG-4)
    (group, {"name": 3}, TypeError, r"name must be a str, not 3 of type int: leave it out"),
    (group, {"name": b"x"}, TypeError, r"name must be a str, not b'x' of type bytes: leave it out"),
    (group, {"lifetime": "Detached"}, ValueError, r"lifetime='Detached' must be \"detached\", or None"),
    (group, {"lifetime": "non_detached"}, ValueError, r"lifetime='non_detached' must be .*: leave it out for that"),
    (group, {"lifetime": ""}, ValueError, r"lifetime='' must be \"detached\", or None"),
    (group, {"lifetime": "forever"}, ValueError, r"lifetime='forever' must be \"detached\", or None for a group that"),
    (group, {"lifetime": True}, ValueError, r"lifetime=True must be"),
    # bundle_label_selector (PG-16)
    (
        group,
        {"selectors": {"a": "b"}},
        TypeError,
        r"bundle_label_selector must be a list with one dict for each bundle",
    ),
    (group, {"selectors": []}, ValueError, r"bundle_label_selector has 0 entries for 1 bundles: give one for each"),
    (
        group,
        {"selectors": [{}, {}]},
        ValueError,
        r"bundle_label_selector has 2 entries for 1 bundles: give one for each",
    ),
    (
        group,
        {"selectors": [{"a": 1}]},
        TypeError,
        r"bundle_label_selector\[0\]\['a'\] must be a str, not 1 of type int: wr",
    ),
    (group, {"selectors": [{"a": "in("}]}, ValueError, r"bundle_label_selector\[0\]\['a'\]='in\('.*write a value"),
    (group, {"selectors": 3}, TypeError, r"bundle_label_selector must be a list with one dict for each bundle, not 3"),
    (
        group,
        {"selectors": [None]},
        TypeError,
        r"bundle_label_selector\[0\] must be a dict of label names and what they",
    ),
    (group, {"selectors": ["a"]}, TypeError, r"bundle_label_selector\[0\] must be a dict"),
    # PlacementGroupStrategy (PG-7)
    (
        PlacementGroupStrategy,
        {"placement_group": "g1"},
        TypeError,
        r"\(placement_group='g1'\) must be a PlacementGroup or",
    ),
    (
        PlacementGroupStrategy,
        {"placement_group": GROUP, "bundle_index": 2},
        ValueError,
        r"index=2\) must be from 0 to 1",
    ),
    (PlacementGroupStrategy, {"placement_group": GROUP, "bundle_index": -2}, ValueError, r"-1 for any of them"),
    (
        PlacementGroupStrategy,
        {"placement_group": GROUP, "bundle_index": "0"},
        TypeError,
        r"bundle_index='0'\) must be an int, not str: give the number of a bundle, or -1",
    ),
    (
        PlacementGroupStrategy,
        {"placement_group": GROUP, "bundle_index": True},
        TypeError,
        r"bundle_index=True\) must be an int",
    ),
    (PlacementGroupStrategy, {"placement_group": None, "bundle_index": 0}, ValueError, r"needs placement_group=\.\.\."),
    (
        PlacementGroupStrategy,
        {"placement_group": GROUP, "capture_children": 1},
        TypeError,
        r"capture_children=1\) must be",
    ),
    # NodeAffinityStrategy
    (
        NodeAffinityStrategy,
        {"node_id": 5},
        TypeError,
        r"\(node_id=5\) must be a str, not int: give the id that runtime_c",
    ),
    (
        NodeAffinityStrategy,
        {"node_id": "xyz"},
        ValueError,
        r"\(node_id='xyz'\) must be 16 hexadecimal digits: give the id",
    ),
    (NodeAffinityStrategy, {"node_id": NODE.upper()}, ValueError, r"must be 16 hexadecimal digits"),
    (NodeAffinityStrategy, {"node_id": NODE, "soft": 1}, TypeError, r"\(soft=1\) must be True or False"),
    (NodeAffinityStrategy, {"node_id": ""}, ValueError, r"\(node_id=''\) must be 16 hexadecimal digits: give the id"),
    (
        NodeAffinityStrategy,
        {"node_id": b"0" * 16},
        TypeError,
        r"must be a str, not bytes: give the id that runtime_con",
    ),
    # schedule_timeout
    (options, {"schedule_timeout": "5"}, TypeError, r"option schedule_timeout must be a number of seconds, not '5' of"),
    (options, {"schedule_timeout": True}, TypeError, r"option schedule_timeout must be a number of seconds, not True"),
    (options, {"schedule_timeout": 0}, ValueError, r"option schedule_timeout=0 must be above 0 seconds: leave it out"),
    (
        options,
        {"schedule_timeout": -1},
        ValueError,
        r"option schedule_timeout=-1 must be above 0 seconds: leave it out",
    ),
    (
        options,
        {"schedule_timeout": float("nan")},
        ValueError,
        r"schedule_timeout=nan must be above 0 seconds: leave it",
    ),
    # scheduling_strategy
    (
        options,
        {"scheduling_strategy": ""},
        ValueError,
        r"option scheduling_strategy='' must be \"DEFAULT\", \"SPREAD\"",
    ),
    (
        options,
        {"scheduling_strategy": "PACK"},
        ValueError,
        r"option scheduling_strategy='PACK' must be .*PlacementGroupS",
    ),
    (
        options,
        {"scheduling_strategy": {"zone": "a"}},
        TypeError,
        r"option scheduling_strategy must be .*, not \{'zone'",
    ),
    (
        ActorOptions.make,
        {"scheduling_strategy": ["SPREAD"]},
        TypeError,
        r"option scheduling_strategy must be .*of type l",
    ),
    (
        options,
        {"scheduling_strategy": "spread"},
        ValueError,
        r"option scheduling_strategy='spread' must be \"DEFAULT\", ",
    ),
    (options, {"scheduling_strategy": 3}, TypeError, r"option scheduling_strategy must be .*, not 3 of type int"),
    (
        options,
        {"scheduling_strategy": SpreadStrategy},
        TypeError,
        r"option scheduling_strategy must be .*SpreadStrategy\(\)",
    ),
    # labels of nodes
    (node, {"labels": "zone"}, TypeError, r"labels must be a dict of names and values, not 'zone' of type str"),
    (node, {"labels": [("a", "b")]}, TypeError, r"labels must be a dict of names and values, not \["),
    (node, {"labels": {1: "a"}}, TypeError, r"labels must have names that are str, not 1 of type int"),
    (node, {"labels": {"a": 1}}, TypeError, r"labels\['a'\] must be a str, not 1 of type int: write '1'"),
    (node, {"labels": {"": "a"}}, ValueError, r"labels key '': use 1 to 63 letters, digits"),
    (node, {"labels": {"a" * 64: "b"}}, ValueError, r"labels key 'a+': use 1 to 63 letters"),
    (node, {"labels": {"a": "b" * 64}}, ValueError, r"labels\['a'\]='b+': use 1 to 63 letters"),
    (node, {"labels": {"a": "!b"}}, ValueError, r"labels\['a'\]='!b': use 1 to 63 letters"),
    (node, {"labels": {"a b": "c"}}, ValueError, r"labels key 'a b': use 1 to 63 letters"),
    (node, {"labels": {"P/a": "b"}}, ValueError, r"labels key 'P/a': before the / stands a DNS name of at most 253"),
    (node, {"labels": {"p" * 254 + "/a": "b"}}, ValueError, r"before the / stands a DNS name of at most 253 char"),
    (node, {"labels": {"a/b/c": "d"}}, ValueError, r"labels key 'a/b/c': before the / stands a DNS name"),
    (node, {"labels": {"ray.io/x": "1"}}, ValueError, r"labels key 'ray.io/x': ray.io/ is reserved for labels that no"),
    (node, {"labels": {"actorlite.io/node-id": "1"}}, ValueError, r"actorlite.io/ is reserved for labels that nodes"),
    # label_selector, fallback_strategy
    (options, {"label_selector": "a"}, TypeError, r"option label_selector must be a dict of label names"),
    (
        options,
        {"label_selector": {"a b": "c"}},
        ValueError,
        r"option label_selector key 'a b': use 1 to 63",
    ),
    (
        options,
        {"label_selector": {"a": "in(b"}},
        ValueError,
        r"option label_selector\['a'\]='in\(b'.*write a value, '!value'",
    ),
    (
        options,
        {"label_selector": {"a": 1}},
        TypeError,
        r"option label_selector\['a'\] must be a str, not 1 .*: write a ",
    ),
    (
        options,
        {"label_selector": {"a": "notin(b)"}},
        ValueError,
        r"label_selector\['a'\]='notin\(b\)'.*write a value, '!v",
    ),
    (
        options,
        {"label_selector": {"a": "in()"}},
        ValueError,
        r"label_selector\['a'\]='in\(\)' has an empty value: write",
    ),
    (
        options,
        {"fallback_strategy": [{"label_selector": None}]},
        TypeError,
        r"\[0\]\['label_selector'\] must be a dict of",
    ),
    (
        options,
        {"fallback_strategy": [{"label_selector": {"a": "b"}, "num_cpus": 1}]},
        ValueError,
        r"fallback_strategy\[0\] has the key 'num_cpus', but only 'label_selector' can be there",
    ),
    (options, {"fallback_strategy": {}}, TypeError, r"option fallback_strategy must be a list of \{\"label_selector\""),
    (options, {"fallback_strategy": ["a"]}, TypeError, r"option fallback_strategy\[0\] must be a dict"),
    (options, {"fallback_strategy": [{}]}, ValueError, r"option fallback_strategy\[0\] is empty: write"),
    (
        options,
        {"fallback_strategy": [{"labels": {}}]},
        ValueError,
        r"\[0\] has the key 'labels', but only 'label_selector'",
    ),
    (
        options,
        {"fallback_strategy": [{"label_selector": {"a": ""}}]},
        ValueError,
        r"\[0\]\['label_selector'\]\['a'\]=''",
    ),
    (
        options,
        {"fallback_strategy": [{"label_selector": {"a": "b"}}]},
        ValueError,
        r"needs label_selector=\.\.\.: it says",
    ),
    (
        options,
        {"label_selector": {"a": "b"}, "scheduling_strategy": PlacementGroupStrategy(GROUP)},
        ValueError,
        r"label_selector=\{'a': 'b'\} contradicts a PlacementGroupStrategy.*bundle_label_selector",
    ),
    (
        ActorOptions.make,
        {"process": "shared", "label_selector": {"a": "b"}},
        ValueError,
        'process="shared" contradicts',
    ),
]


@pytest.mark.parametrize(("make", "keywords", "error", "text"), BAD)
def test_a_bad_value_names_the_argument_and_the_remedy(
    make: Any, keywords: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(**keywords)


def test_a_request_must_fit_into_a_bundle() -> None:
    anywhere = PlacementGroupStrategy(GROUP)
    anywhere.check("f()", size(CPU=2))
    anywhere.check("f()", size(GPU=1))
    PlacementGroupStrategy(None).check("f()", size(CPU=100))
    with pytest.raises(ValueError, match=r"f\(\) needs {CPU: 3} and cannot fit into any bundle of placement group g1"):
        anywhere.check("f()", size(CPU=3))
    with pytest.raises(ValueError, match=r"cannot fit into any bundle of .*\({CPU: 2}; {GPU: 1}\): ask for less"):
        anywhere.check("f()", size(CPU=1, GPU=1))
    with pytest.raises(ValueError, match=r"cannot fit into bundle 1 of .*, or give num_cpus=0 if it needs none"):
        PlacementGroupStrategy(GROUP, 1).check("Actor", size(CPU=1))


def test_all_options_of_place_become_one_value() -> None:
    assert options().where is ANYWHERE
    assert options(scheduling_strategy="DEFAULT").where == ANYWHERE
    assert options(scheduling_strategy="SPREAD").where == Where(spread=True)
    assert options(scheduling_strategy=SpreadStrategy()).where == Where(spread=True)
    node = NodeAffinityStrategy(NODE, soft=True)
    assert options(scheduling_strategy=node).where == Where(node=NODE, soft=True)
    selectors = (("a", "1"), ("b", "!2")), (("a", "2"),)
    picky = options(label_selector={"b": "!2", "a": "1"}, fallback_strategy=[{"label_selector": {"a": "2"}}])
    assert picky.where == Where(selectors=selectors)
    assert picky.merged(scheduling_strategy="SPREAD").where == Where(spread=True, selectors=selectors)
    assert picky.merged(label_selector={}, fallback_strategy=[]).where is ANYWHERE
    inside = PlacementGroupStrategy(GROUP, 1, capture_children=True)
    assert options(scheduling_strategy=inside).where == Where(group="g1", bundle=1, captures=True)
    assert options(scheduling_strategy=PlacementGroupStrategy(None)).where == ANYWHERE
    assert ActorOptions.make(label_selector={"a": "1"}).where == Where(selectors=((("a", "1"),),))
    with pytest.raises(ValueError, match="contradicts"):
        picky.merged(scheduling_strategy=inside)


def test_a_call_with_a_place_of_its_own_takes_the_long_way() -> None:
    assert options().is_plain
    for strategy in ("DEFAULT", "SPREAD", PlacementGroupStrategy(None)):
        assert not options(scheduling_strategy=strategy).is_plain
    assert not options(label_selector={"a": "b"}).is_plain
    assert options(label_selector={}).is_plain


def test_options_of_place_travel() -> None:
    made = options(scheduling_strategy=PlacementGroupStrategy(GROUP, 0))
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(made) == hash(pickle.loads(pickle.dumps(made)))


def test_a_group_that_is_asked_for() -> None:
    assert group([{"CPU": 1, "GPU": 0}, {"x": 0.5}]) == GroupRequest((size(CPU=1), size(x=0.5)))
    full = group(strategy="SPREAD", name="gang", lifetime="detached", selectors=[{"a": "b"}])
    assert full == GroupRequest((size(CPU=1),), "SPREAD", "gang", "detached", ((("a", "b"),),))
    assert group(name=None, selectors=[{}]) == group()
