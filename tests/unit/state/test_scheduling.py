from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actorlite.ids import ProcessId
from actorlite.labels import ANY_LABELS, LabelSelector
from actorlite.resources import ResourceSet
from actorlite.state.scheduling import CROWDED, Affinity, NodeIndex, NodeView, Wish

ONE = ResourceSet.from_floats({"CPU": 1})


def node(
    name: str, total: float = 4, free: float | None = None, gpus: float = 0, labels: dict[str, str] | None = None
) -> NodeView:
    have = {"CPU": total, "GPU": gpus}
    left = {"CPU": total if free is None else free, "GPU": gpus}
    return NodeView(ProcessId(name), ResourceSet.from_floats(have), ResourceSet.from_floats(left), labels or {})


def index(*views: NodeView, here: str = "a") -> NodeIndex:
    found = NodeIndex(ProcessId(here))
    for view in views:
        found.put(view)
    return found


def cpus(number: float) -> ResourceSet:
    return ResourceSet.from_floats({"CPU": number})


def labelled(**labels: str) -> LabelSelector:
    return LabelSelector.parse("x", labels)


def test_work_stays_here_until_half_of_the_node_is_in_use() -> None:
    nodes = index(node("a", 4), node("b", 4))
    taken = []
    for _ in range(8):
        found = nodes.choose(Wish(ONE))
        assert found is not None
        nodes.assume(found, ONE)
        taken.append(found)
    assert taken[:4] == ["a", "a", "b", "b"]
    assert sorted(taken[4:6]) == ["a", "b"]
    assert sorted(taken[6:]) == ["a", "b"]


def test_arguments_draw_a_request_to_where_they_lie_if_there_is_room() -> None:
    nodes = index(node("a"), node("b", 4, 1))
    assert nodes.choose(Wish(ONE), ProcessId("b")) == "b"
    assert nodes.choose(Wish(cpus(2)), ProcessId("b")) == "a"
    assert nodes.choose(Wish(ONE), ProcessId("gone")) == "a"
    assert nodes.choose(Wish(ONE, spread=True), ProcessId("b")) in ("a", "b")


def with_devices(name: str, *free: int) -> NodeView:
    units = {"CPU": 80_000, "GPU": 10_000 * len(free)}
    return NodeView(ProcessId(name), ResourceSet(units), ResourceSet({**units, "GPU": sum(free)}), devices=tuple(free))


def gpus(number: float) -> Wish:
    return Wish(ResourceSet.from_floats({"GPU": number}))


def test_a_whole_device_is_not_free_where_parts_of_several_are() -> None:
    nodes = index(node("a"), with_devices("b", 5_000, 5_000), with_devices("c", 0, 0, 0, 10_000))
    assert nodes.choose(gpus(1)) == "c"
    assert nodes.has_room(gpus(1), ProcessId("b"))
    assert not nodes.has_room(gpus(1), ProcessId("c")), "it has it itself"
    assert nodes.choose(gpus(2)) in ("b", "c"), "nobody has that now, and it waits where it will be"
    nodes.assume(ProcessId("c"), gpus(0.5).needs)
    assert nodes.views[ProcessId("c")].devices == (0, 0, 0, 5_000)
    assert not nodes.has_room(gpus(1), ProcessId("b"))
    nodes.assume(ProcessId("c"), gpus(1).needs)
    assert nodes.views[ProcessId("c")].free.units_of("GPU") == 5_000, "there was none to take"


def test_what_others_have_waited_for_is_not_free_on_another_node_and_may_be_on_ones_own() -> None:
    kept = replace(node("b", 8), waited=cpus(6))
    nodes = index(node("a", 4, 0), kept)
    assert nodes.choose(Wish(cpus(2))) == "b" and nodes.has_room(Wish(cpus(2)), ProcessId("a"))
    assert not nodes.has_room(Wish(cpus(3)), ProcessId("a"))
    assert kept.as_known(cpus(6), True).has_room(cpus(6)), "it is for this one that it is kept"
    assert not kept.as_known(cpus(2), False).has_room(cpus(2))


def test_a_request_waits_here_when_all_are_busy_and_elsewhere_when_this_node_is_too_small() -> None:
    nodes = index(node("a", 2, 0), node("b", 4, 0), node("c", 4, 0))
    assert nodes.choose(Wish(ONE)) == "a"
    assert nodes.choose(Wish(ONE), ProcessId("b")) == "b"
    assert {nodes.choose(Wish(cpus(3))) for _ in range(2)} == {"b", "c"}
    assert nodes.choose(Wish(cpus(5))) is None
    assert nodes.shortfall(Wish(cpus(5))) == "node a lacks CPU: 3; node b lacks CPU: 1; node c lacks CPU: 1"


def test_spread_goes_round_all_nodes_with_room() -> None:
    nodes = index(node("a", 8), node("b", 8), node("c", 8, 1))
    taken = []
    for _ in range(7):
        found = nodes.choose(Wish(ONE, spread=True))
        assert found is not None
        nodes.assume(found, ONE)
        taken.append(found)
    assert sorted(taken[:3]) == ["a", "b", "c"]
    assert sorted(taken[3:5]) == ["a", "b"]
    assert sorted(taken[5:7]) == ["a", "b"]
    busy = index(node("a", 1, 0), node("b", 1, 0))
    assert {busy.choose(Wish(ONE, spread=True)) for _ in range(2)} == {"a", "b"}


def test_what_needs_no_gpu_leaves_nodes_that_have_some_alone() -> None:
    nodes = index(node("a", gpus=2), node("b", 4, 1))
    assert nodes.choose(Wish(ONE)) == "b"
    nodes.assume(ProcessId("b"), ONE)
    assert nodes.choose(Wish(ONE)) == "a"
    assert nodes.choose(Wish(ResourceSet.from_floats({"GPU": 1}))) == "a"


def test_affinity_to_a_node_is_kept_also_when_it_is_busy() -> None:
    nodes = index(node("a"), node("b", 4, 0))
    assert nodes.choose(Wish(ONE, affinity=Affinity(ProcessId("b")))) == "b"
    assert nodes.choose(Wish(ONE, affinity=Affinity(ProcessId("b"), soft=True))) == "b"
    gone = Wish(ONE, affinity=Affinity(ProcessId("z")))
    assert nodes.choose(gone) is None
    assert nodes.shortfall(gone) == "node z is not in the cluster (any more)"
    assert nodes.choose(Wish(ONE, affinity=Affinity(ProcessId("z"), soft=True))) == "a"
    small = Wish(cpus(5), affinity=Affinity(ProcessId("b")))
    assert nodes.choose(small) is None
    assert nodes.shortfall(small) == "node b lacks CPU: 1"


def test_selectors_are_tried_in_order_and_room_comes_first() -> None:
    nodes = index(node("a"), node("b", 4, 0, labels={"zone": "x"}), node("c", labels={"zone": "y"}))
    first, second = labelled(zone="x"), labelled(zone="y")
    assert nodes.choose(Wish(ONE, (first,))) == "b"
    assert nodes.choose(Wish(ONE, (first, second))) == "c"
    assert nodes.choose(Wish(cpus(4), (second, first))) == "c"
    assert nodes.choose(Wish(ONE, (labelled(zone="!y"),))) == "a"
    nowhere = Wish(ONE, (labelled(zone="z"),))
    assert nodes.choose(nowhere) is None
    assert "node c has labels {'zone': 'y'}, not [zone in (z)]" in nodes.shortfall(nowhere)
    assert nodes.choose(Wish(ONE, (first,), affinity=Affinity(ProcessId("a")))) is None


def test_nodes_come_and_go() -> None:
    nodes = index(node("a", 1))
    assert nodes.choose(Wish(cpus(2))) is None
    nodes.put(node("b", 2))
    assert nodes.choose(Wish(cpus(2))) == "b"
    nodes.remove(ProcessId("b"))
    nodes.remove(ProcessId("b"))
    assert nodes.choose(Wish(cpus(2))) is None
    assert nodes.shortfall(Wish(cpus(2))) == "node a lacks CPU: 1"


def test_an_error_lists_a_few_nodes_only() -> None:
    nodes = index(*[node(f"n{number:02}") for number in range(30)])
    assert nodes.shortfall(Wish(cpus(5))).endswith("; and 20 more nodes")


def test_different_nodes_prefer_different_ones_among_equals() -> None:
    names = [f"n{number}" for number in range(20)]
    chosen = set()
    for here in ("x", "y", "z", "u", "v"):
        chosen.add(index(*[node(name) for name in names], here=here).choose(Wish(ONE)))
    assert len(chosen) > 1


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 7), st.integers(0, 8), st.integers(0, 8), st.integers(0, 1)),
        st.tuples(st.just("remove"), st.integers(0, 7)),
        st.tuples(st.just("choose"), st.integers(0, 9), st.integers(0, 8), st.booleans(), st.booleans()),
    ),
    max_size=60,
)


@given(steps)
def test_the_index_decides_as_one_who_looks_at_all_nodes(history: list[tuple[object, ...]]) -> None:
    nodes = index(here="n0")
    for step in history:
        match step:
            case ("put", int(number), int(total), int(used), int(zone)):
                name, free = f"n{number}", max(0, total - used)
                nodes.put(node(name, total, free, labels={"zone": str(zone)}))
            case ("remove", int(number)):
                nodes.remove(ProcessId(f"n{number}"))
            case ("choose", int(needs), int(near), bool(spread), bool(picky)):
                wish = Wish(cpus(needs), (labelled(zone="1"),) if picky else (ANY_LABELS,), spread)
                found = nodes.choose(wish, ProcessId(f"n{near}"))
                _check(nodes, wish, ProcessId(f"n{near}"), found)
                if found is not None:
                    nodes.assume(found, wish.needs)


def _check(nodes: NodeIndex, wish: Wish, near: ProcessId, found: ProcessId | None) -> None:
    able = [v for v in nodes.views.values() if v.total.fits(wish.needs) and wish.selectors[0].matches(v.labels)]
    ready = [view for view in able if view.free.fits(wish.needs)]
    if found is None:
        assert not able
        return
    assert found in [view.node for view in ready or able]
    if wish.spread:
        return
    if near in [view.node for view in ready or able]:
        assert found == near
    elif ready:
        best = min(view.use if view.use >= CROWDED else 0.0 for view in ready)
        use = nodes.views[found].use
        assert (use if use >= CROWDED else 0.0) == best


def drained(view: NodeView) -> NodeView:
    return replace(view, draining=True)


def test_a_node_that_is_drained_gets_nothing_new_however_it_is_asked_for() -> None:
    b = ProcessId("b")
    nodes = index(node("a", 2, 0), drained(node("b", 8, 8, gpus=1, labels={"zone": "x"})))
    assert nodes.choose(Wish(ONE)) == "a"
    assert nodes.choose(Wish(ONE), b) == "a"
    assert nodes.choose(Wish(ONE, spread=True)) == "a"
    assert nodes.choose(Wish(ONE, affinity=Affinity(b, soft=True))) == "a"
    assert nodes.choose(Wish(ONE, affinity=Affinity(b))) is None
    assert nodes.shortfall(Wish(ONE, affinity=Affinity(b))) == "node b is being drained: it takes nothing new"
    assert nodes.choose(Wish(ONE, (labelled(zone="x"),))) is None
    assert nodes.choose(Wish(cpus(4))) is None
    assert "node b is being drained" in nodes.shortfall(Wish(cpus(4)))
    assert not nodes.has_room(Wish(ONE), ProcessId("a"))
    nodes.put(node("c", 2, 2))
    # What waits on the node that leaves had better go where there is room.
    assert nodes.has_room(Wish(ONE), b)


def test_what_prefers_a_node_waits_there_although_others_have_room() -> None:
    nodes, a, b = index(node("a", 2), node("b", 2, 0)), ProcessId("a"), ProcessId("b")
    wish = Wish(ONE, affinity=Affinity(b, soft=True))
    assert nodes.choose(wish) == b and not nodes.has_room(wish, b), (
        "it would be sent there again, to the end of the queue"
    )
    nodes.remove(b)
    assert nodes.choose(wish) == a and nodes.has_room(wish, b)


def test_a_node_that_is_drained_sends_even_its_own_requests_away() -> None:
    nodes = index(drained(node("a", 8)), node("b", 1, 0))
    assert nodes.choose(Wish(ONE)) == "b"
    assert nodes.choose(Wish(ONE), ProcessId("a")) == "b"
    assert nodes.choose(Wish(cpus(2))) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), max_size=40), st.booleans())
def test_no_order_of_news_lets_a_request_reach_a_node_that_is_drained(
    news: list[tuple[int, bool, int]], spread: bool
) -> None:
    nodes = index(node("n0", 3))
    for which, draining, free in news:
        view = node(f"n{which}", 3, free)
        nodes.put(replace(view, draining=draining))
        for wish in (Wish(ONE, spread=spread), Wish(cpus(3), spread=spread)):
            found = nodes.choose(wish)
            able = [each for each in nodes.views.values() if not each.draining]
            assert (found is None) is (not able)
            assert found is None or not nodes.views[found].draining
