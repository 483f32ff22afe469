"""Several tables, and between them what the stores of the nodes do: messages, copies, and nodes that are lost."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorlite.ids import ProcessId
from actorlite.state.allocator import GRANULE
from actorlite.state.objects import (
    HERE,
    AskForPins,
    Command,
    Forget,
    Granted,
    Key,
    ObjectTable,
    Place,
    Pull,
    ReadBack,
    Refused,
    SpillOut,
    StopPull,
)


@dataclass(eq=False)
class Item:
    """An object as its owner knows it."""

    key: Key
    units: int
    origin: ProcessId
    owner: ProcessId
    home: ProcessId
    writer: ProcessId
    sealed: bool = False
    gone: bool = False
    """Freed, or its owner has ended, or it was never written."""
    unsafe: bool = False
    """The node that had the object itself is lost, and no other knows yet that it has to keep it."""
    free_was_lost: bool = False
    """The owner's word died with a node that should have passed it on."""


@dataclass(eq=False)
class Pulling:
    """As `Transfers.pull` goes about it."""

    command: Pull
    asked: set[ProcessId] = field(default_factory=set)
    holder: ProcessId = HERE
    state: str = "looks"
    """Then "asks" the holder to open it, then "copies"."""
    stopping: bool = False


@dataclass(eq=False)
class Request:
    key: Key
    process: ProcessId
    """Or the node that asks."""
    writes: bool = False
    pulling: Pulling | None = None


class Store:
    """A node: its table, and memory and disk by content. Each page has the key of what was written to it last."""

    def __init__(self, id: ProcessId, units: int, spills: bool) -> None:
        self.id = id
        self.table = ObjectTable(units * GRANULE, spills=spills)
        self.memory = [""] * units
        self.alive = True
        self.process = ProcessId(f"process of {id}")
        self.requests: dict[int, Request] = {}
        self.reads: Counter[tuple[Key, ProcessId, int]] = Counter()
        """By where they were granted."""
        self.on_disk: dict[str, Key] = {}
        self.disk_jobs: dict[Key, SpillOut | ReadBack] = {}
        self.pulls: dict[Key, Pulling] = {}
        self.copies: dict[Key, set[ProcessId]] = {}
        self.ended: set[ProcessId] = set()
        self.known_gone: set[ProcessId] = set()

    def fill(self, offset: int, units: int, content: str) -> None:
        first = offset // GRANULE
        self.memory[first : first + units] = [content] * units

    def is_safe(self, key: Key) -> bool:
        """Whether it has the object itself, which it would not drop."""
        found = self.table.objects.get(key)
        return self.alive and found is not None and self.table.has(key) and not found.source


class CopiesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.items: dict[Key, Item] = {}
        self.nodes: dict[ProcessId, Store] = {}
        self.messages: defaultdict[tuple[ProcessId, ProcessId], deque[tuple[Any, ...]]] = defaultdict(deque)
        self.unknown: set[tuple[Store, Key]] = set()
        """What a node has just looked for in vain."""

    @initialize(units=st.lists(st.integers(1, 4), min_size=3, max_size=3), spills=st.sampled_from([True, True, False]))
    def make(self, units: list[int], spills: bool) -> None:
        for number, each in enumerate(units):
            id = ProcessId(f"node {number}")
            self.nodes[id] = Store(id, each, spills)

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    @property
    def living(self) -> list[Store]:
        return [node for node in self.nodes.values() if node.alive]

    def written(self) -> list[Item]:
        return [
            item
            for item in self.items.values()
            if not item.sealed
            and self.nodes[item.origin].alive
            and (found := self.nodes[item.origin].table.objects.get(item.key)) is not None
            and found.in_memory
        ]

    def pulling(self) -> list[tuple[Store, Pulling]]:
        return [(node, each) for node in self.living for each in node.pulls.values()]

    def under_way(self) -> list[tuple[ProcessId, ProcessId]]:
        return [pair for pair, queue in self.messages.items() if queue]

    def unnoticed(self) -> list[tuple[Store, Store]]:
        gone = [node for node in self.nodes.values() if not node.alive]
        return [(node, each) for node in self.living for each in gone if each.id not in node.known_gone]

    def send(self, source: Store, target: ProcessId, *message: Any) -> None:
        if self.nodes[target].alive:
            self.messages[source.id, target].append(message)
        elif message[0] == "free":
            self.items[message[1]].free_was_lost = True

    # Rules of processes.

    @rule(data=st.data(), units=st.integers(1, 2), seal=st.sampled_from([True, True, True, False]))
    def create(self, data: st.DataObject, units: int, seal: bool) -> None:
        node, home = data.draw(st.sampled_from(self.living)), data.draw(st.sampled_from(self.living))
        if home.process in node.ended or units > len(node.memory):
            return
        request = self.number()
        item = Item(f"k{request}", units, node.id, home.process, home.id, node.process)
        self.items[item.key] = item
        node.requests[request] = Request(item.key, node.process, writes=True)
        self.do(
            node,
            node.table.create(
                request, item.key, units * GRANULE, item.owner, node.process, HERE if home is node else home.id
            ),
        )
        node.table.claim(item.key)
        if seal and item in self.written():
            self.seal_it(item)

    @precondition(written)
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        self.seal_it(data.draw(st.sampled_from(self.written())))

    def seal_it(self, item: Item) -> None:
        item.sealed = True
        node = self.nodes[item.origin]
        self.do(node, node.table.seal(item.key))

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        node, item = data.draw(st.sampled_from(self.living)), data.draw(st.sampled_from(list(self.items.values())))
        self.open_it(node, item)

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def open_elsewhere(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(list(self.items.values())[-4:]))
        others = [node for node in self.living if node.id != item.origin]
        if others and item.sealed:
            self.open_it(data.draw(st.sampled_from(others)), item)

    @precondition(lambda self: self.items)
    @rule(data=st.data(), reads_on=st.booleans())
    def copy(self, data: st.DataObject, reads_on: bool) -> None:
        """Open, and go on with that as far as nothing else has to happen."""
        item = data.draw(
            st.sampled_from([each for each in self.items.values() if not each.gone] or [*self.items.values()])
        )
        others = [node for node in self.living if node.id != item.origin]
        if not others:
            return
        node = data.draw(st.sampled_from(others))
        self.open_it(node, item)
        while (pulling := node.pulls.get(item.key)) is not None:
            ways = [(node.id, pulling.holder), (pulling.holder, node.id)]
            if (node, pulling) in self.can_go_on():
                self.pull_on(node, pulling, lambda holders: data.draw(st.sampled_from(holders)))
            elif way := next((each for each in ways if self.messages[each]), None):
                self.deliver_one(*way)
            elif item.key in self.nodes[pulling.holder].disk_jobs and self.nodes[pulling.holder].alive:
                self.disk_done(self.nodes[pulling.holder], item.key)
            else:
                break
        if not reads_on:
            for read in [each for each in node.reads if each[0] == item.key]:
                self.close_it(node, read)

    def open_it(self, node: Store, item: Item) -> None:
        request = self.number()
        node.requests[request] = Request(item.key, node.process)
        if node.id == item.origin:
            self.do(node, node.table.open(request, item.key, node.process))
        elif item.units > len(node.memory):
            [refused] = node.table.open(request, item.key, node.process, item.units * GRANULE, item.origin)
            assert isinstance(refused, Refused)
            if item.key not in node.table.objects:
                assert not refused.lost
            del node.requests[request]
        else:
            self.do(node, node.table.open(request, item.key, node.process, item.units * GRANULE, item.origin))

    @precondition(lambda self: any(node.reads for node in self.living))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from([each for each in self.living if each.reads]))
        self.close_it(node, data.draw(st.sampled_from(list(node.reads))))

    def close_it(self, node: Store, read: tuple[Key, ProcessId, int]) -> None:
        node.reads -= Counter([read])
        self.do(node, node.table.close(read[0], read[1]))

    @precondition(lambda self: any(node.requests for node in self.living))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from([each for each in self.living if each.requests]))
        numbers = [number for number, each in node.requests.items() if not each.pulling and not each.writes]
        if numbers:
            self.withdraw_it(node, data.draw(st.sampled_from(numbers)))

    def withdraw_it(self, node: Store, request: int) -> None:
        del node.requests[request]
        self.do(node, node.table.withdraw(request))

    def freeable(self) -> list[Item]:
        return [item for item in self.items.values() if not item.gone and self.nodes[item.home].alive]

    @precondition(freeable)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.free_it(data.draw(st.sampled_from(self.freeable())))

    def free_it(self, item: Item) -> None:
        item.gone = True
        self.freed(self.nodes[item.home], item.key, item.origin)

    def freed(self, node: Store, key: Key, origin: ProcessId = HERE) -> None:
        """As `NodeStore._free`."""
        if origin in node.known_gone:
            for other in self.nodes:
                if other != node.id and other not in node.known_gone:
                    self.send(node, other, "free", key)
        elif origin not in (HERE, node.id):
            self.send(node, origin, "free", key)
        for other in node.copies.pop(key, ()):
            self.send(node, other, "free", key)
        self.do(node, node.table.free(key))

    # Rules of nodes.

    @precondition(under_way)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.deliver_one(*data.draw(st.sampled_from(self.under_way())))

    def deliver_one(self, source: ProcessId, target: ProcessId) -> None:
        kind, *rest = self.messages[source, target].popleft()
        getattr(self, f"got_{kind}")(self.nodes[target], source, *rest)

    def got_open(self, node: Store, source: ProcessId, key: Key, pulling: Pulling) -> None:
        request = self.number()
        node.requests[request] = Request(key, source, pulling=pulling)
        self.do(node, node.table.open(request, key, source))

    def got_cancel(self, node: Store, source: ProcessId, pulling: Pulling) -> None:
        for request in [number for number, each in node.requests.items() if each.pulling is pulling]:
            self.withdraw_it(node, request)

    def got_placed(self, node: Store, source: ProcessId, pulling: Pulling, owner: ProcessId, home: ProcessId) -> None:
        key = pulling.command.key
        if node.pulls.get(key) is pulling:
            node.table.owned_by(key, owner, HERE if home == node.id else home)
            pulling.state = "copies"
        else:
            self.send(node, source, "close", key)

    def got_refused(self, node: Store, source: ProcessId, pulling: Pulling) -> None:
        pulling.state = "looks"

    def got_close(self, node: Store, source: ProcessId, key: Key) -> None:
        self.do(node, node.table.close(key, source))

    def got_free(self, node: Store, source: ProcessId, key: Key) -> None:
        self.freed(node, key)

    def got_ended(self, node: Store, source: ProcessId, process: ProcessId) -> None:
        node.ended.add(process)
        self.do(node, node.table.owner_gone(process))
        self.do(node, node.table.process_gone(process))
        self.forget_copies(node)

    def forget_copies(self, node: Store) -> None:
        objects = node.table.objects
        for key in [key for key in node.copies if (found := objects.get(key)) is None or found.freed]:
            self.tell_copies(node, key)

    def tell_copies(self, node: Store, key: Key) -> None:
        for other in node.copies.pop(key, ()):
            if other not in node.known_gone:
                self.send(node, other, "free", key)

    def can_go_on(self) -> list[tuple[Store, Pulling]]:
        return [
            (node, each)
            for node, each in self.pulling()
            if each.state == "looks" or each.state == "copies" and self.nodes[each.holder].alive
        ]

    @precondition(can_go_on)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        node, pulling = data.draw(st.sampled_from(self.can_go_on()))
        self.pull_on(node, pulling, lambda holders: data.draw(st.sampled_from(holders)))

    def pull_on(self, node: Store, pulling: Pulling, choose: Any) -> None:
        if pulling.state == "looks":
            self.look(node, pulling, choose)
            return
        key, holder = pulling.command.key, self.nodes[pulling.holder]
        there, units = holder.table.objects[key], self.items[key].units
        assert there.pins[node.id], "it is open for this node"
        self.holds(holder, key, there.offset)
        node.fill(pulling.command.offset, units, key)
        self.send(node, holder.id, "close", key)
        del node.pulls[key]
        is_original = holder.id == pulling.command.source and holder.id not in node.known_gone
        self.do(node, node.table.restored(key, holder.id if is_original else HERE))
        copy = node.table.objects.get(key)
        if copy is not None and not self.is_there(node, copy.owner, copy.home):
            self.do(node, node.table.free(key))

    def is_there(self, node: Store, owner: ProcessId, home: ProcessId) -> bool:
        return home not in node.known_gone and owner not in node.ended if home else owner == node.process

    def look(self, node: Store, pulling: Pulling, choose: Any) -> None:
        key, source = pulling.command.key, pulling.command.source
        if source not in pulling.asked and source not in node.known_gone:
            holder = source
        else:
            others = [each for each in self.living if each is not node and each.id not in pulling.asked]
            holders = [each.id for each in others if each.table.has(key)]
            if not holders:
                item = self.items[key]
                assert item.gone or not any(each.is_safe(key) for each in self.living), "a living node has it"
                self.unknown.add((node, key))
                del node.pulls[key]
                self.do(node, node.table.restore_failed(key, "no node has it"))
                self.unknown.clear()
                return
            holder = choose(holders)
        pulling.asked.add(holder)
        pulling.holder, pulling.state = holder, "asks"
        self.send(node, holder, "open", key, pulling)

    def stopping(self) -> list[tuple[Store, Pulling]]:
        return [(node, each) for node, each in self.pulling() if each.stopping]

    @precondition(stopping)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        self.stop_it(*data.draw(st.sampled_from(self.stopping())))

    def stop_it(self, node: Store, pulling: Pulling) -> None:
        key = pulling.command.key
        if pulling.state == "asks":
            self.send(node, pulling.holder, "cancel", pulling)
        elif pulling.state == "copies":
            self.send(node, pulling.holder, "close", key)
        del node.pulls[key]
        self.do(node, node.table.pull_stopped(key))

    @precondition(lambda self: self.pulling())
    @rule(data=st.data())
    def put_off(self, data: st.DataObject) -> None:
        """There is no memory on the host, or the like."""
        node, pulling = data.draw(st.sampled_from(self.pulling()))
        if pulling.state == "looks" and not pulling.asked:
            del node.pulls[pulling.command.key]
            self.do(node, node.table.restore_put_off(pulling.command.key, "no memory"))

    @precondition(lambda self: any(node.disk_jobs for node in self.living))
    @rule(data=st.data())
    def disk(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from([each for each in self.living if each.disk_jobs]))
        self.disk_done(node, data.draw(st.sampled_from(list(node.disk_jobs))))

    def disk_done(self, node: Store, key: Key) -> None:
        command = node.disk_jobs.pop(key)
        if isinstance(command, SpillOut):
            self.holds(node, key, command.offset)
            location = f"disk of {node.id}/{self.number()}"
            node.on_disk[location] = key
            self.do(node, node.table.spilled(key, location))
        else:
            assert node.on_disk[command.location] == key
            node.fill(command.offset, self.items[key].units, key)
            self.do(node, node.table.restored(key))

    # Rules of ends: rare, or nothing lives long enough to be copied.

    @precondition(lambda self: self.items)
    @rule(data=st.data(), what=st.sampled_from(["nothing", "nothing", "lose_process", "lose_node", "lose_node"]))
    def lose(self, data: st.DataObject, what: str) -> None:
        if what != "nothing":
            getattr(self, what)(data.draw(st.sampled_from(self.living)))

    def lose_process(self, node: Store) -> None:
        process, node.process = node.process, ProcessId(f"process {self.number()} of {node.id}")
        node.ended.add(process)
        for item in self.items.values():
            item.gone = item.gone or item.owner == process or item.writer == process and not item.sealed
        for request in [number for number, each in node.requests.items() if each.process == process]:
            del node.requests[request]
        node.reads = Counter({read: count for read, count in node.reads.items() if read[1] != process})
        self.do(node, node.table.owner_gone(process))
        self.do(node, node.table.process_gone(process))
        self.forget_copies(node)
        for other in self.nodes:
            if other != node.id and other not in node.known_gone:
                self.send(node, other, "ended", process)

    def lose_node(self, node: Store) -> None:
        if len(self.living) == 1:
            return
        node.alive = False
        for pair in [pair for pair in self.messages if node.id in pair]:
            for message in self.messages.pop(pair):
                if message[0] == "free":
                    self.items[message[1]].free_was_lost = True
        for item in self.items.values():
            item.gone = item.gone or item.home == node.id or item.origin == node.id and not item.sealed
            item.unsafe = not any(each.is_safe(item.key) for each in self.living)

    @precondition(unnoticed)
    @rule(data=st.data())
    def notice(self, data: st.DataObject) -> None:
        self.notice_it(*data.draw(st.sampled_from(self.unnoticed())))

    def notice_it(self, node: Store, gone: Store) -> None:
        node.known_gone.add(gone.id)
        self.do(node, node.table.process_gone(gone.id))
        adopted = node.table.copies_of(gone.id)
        self.do(node, node.table.node_gone(gone.id))
        for key in adopted:  # their owner is asked
            if self.items[key].gone:
                self.do(node, node.table.free(key))
        for nodes in node.copies.values():
            nodes.discard(gone.id)
        self.forget_copies(node)
        for request in [number for number, each in node.requests.items() if each.process == gone.id]:
            self.withdraw_it(node, request)
        for pulling in node.pulls.values():
            if pulling.holder == gone.id and pulling.state != "looks":
                pulling.state = "looks"

    # What the tables want done.

    def do(self, node: Store, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Granted(request, offset):
                    self.granted(node, node.requests.pop(request), offset)
                case Refused(request, _, lost):
                    self.refused(node, node.requests.pop(request), lost)
                case SpillOut(key) | ReadBack(key):
                    assert key not in node.disk_jobs
                    node.disk_jobs[key] = command
                    if isinstance(command, ReadBack):
                        node.fill(command.offset, self.items[key].units, "half read")
                case Pull(key, offset, size, source):
                    item = self.items[key]
                    assert key not in node.pulls and source == item.origin and size == item.units * GRANULE
                    node.fill(offset, item.units, "half copied")
                    node.pulls[key] = Pulling(command)
                case StopPull(key):
                    node.pulls[key].stopping = True
                case Forget(location):
                    del node.on_disk[location]
                case AskForPins():
                    pass

    def granted(self, node: Store, request: Request, offset: int) -> None:
        key, item = request.key, self.items[request.key]
        if request.writes:
            node.fill(offset, item.units, key)
            return
        self.holds(node, key, offset)
        if request.pulling is None:
            node.reads[key, request.process, offset] += 1
            return
        found = node.table.objects[key]
        node.copies.setdefault(key, set()).add(request.process)
        assert found.owner, "it is known whose it is"
        self.send(node, request.process, "placed", request.pulling, found.owner, found.home or node.id)

    def refused(self, node: Store, request: Request, lost: bool) -> None:
        if request.pulling is not None:
            assert lost
            self.send(node, request.process, "refused", request.pulling)
        elif lost:
            assert self.items[request.key].gone or (node, request.key) in self.unknown, "refused as lost without reason"

    def holds(self, node: Store, key: Key, offset: int) -> None:
        first, units = offset // GRANULE, self.items[key].units
        assert node.memory[first : first + units] == [key] * units, "others have written to its pages"

    # What always holds.

    @invariant()
    def every_byte_belongs_to_one(self) -> None:
        for node in self.living:
            end, used = 0, 0
            for found in sorted(node.table.objects.values(), key=lambda each: each.offset):
                if found.in_memory:
                    assert found.offset >= end
                    end = found.offset + self.items[found.key].units * GRANULE
                    used += end - found.offset
                    if found.is_whole:
                        self.holds(node, found.key, found.offset)
            assert used == node.table.allocator.used_bytes and end <= node.table.allocator.capacity
            for key, process, offset in node.reads:
                found = node.table.objects[key]
                assert found.offset == offset and found.pins[process] >= node.reads[key, process, offset]

    @invariant()
    def nothing_is_left_that_nobody_needs(self) -> None:
        for node in self.living:
            for key, found in node.table.objects.items():
                assert found.place is not Place.DISK or found.location, "a copy that is nowhere"
                copied_now = found.place is Place.RESTORING and found.in_memory and not found.location
                assert copied_now == (key in node.pulls)
                assert not copied_now or bool(found.openers) or node.pulls[key].stopping, "for nobody"
                assert not found.openers or not found.is_whole
            assert node.on_disk.keys() == {each.location for each in node.table.objects.values() if each.location}

    @invariant()
    def no_object_is_lost(self) -> None:
        for node in self.living:
            for key, found in node.table.objects.items():
                if found.is_whole and found.source and not self.items[key].gone:
                    source = self.nodes[found.source]
                    assert source.is_safe(key) or not source.alive and source.id not in node.known_gone
        for item in self.items.values():
            if item.sealed and not item.gone:
                if any(node.is_safe(item.key) for node in self.living):
                    item.unsafe = False
                else:
                    assert item.unsafe, "nobody has it any more"

    # The end: everybody does what is expected of them.

    def settle(self) -> None:
        """Until nobody waits for anything."""
        while True:
            if self.step():
                continue
            # Who waits has a deadline: nodes whose memory is full of what they fetch from one another wait for ever.
            waiting = [(node, number) for node in self.living for number in node.requests]
            waiting = [each for each in waiting if each[0].requests[each[1]].pulling is None]
            if not waiting:
                return
            node, number = waiting[0]
            if node.requests[number].writes:
                self.items[node.requests[number].key].gone = True
            self.withdraw_it(node, number)

    def step(self) -> bool:
        """Whether there was anything to do."""
        before = self.numbers, len(self.items)
        done = False
        for pair in self.under_way():
            while self.messages[pair]:
                self.deliver_one(*pair)
                done = True
        for pair in self.unnoticed():
            self.notice_it(*pair)
            done = True
        for node in self.living:
            for key in list(node.disk_jobs):
                self.disk_done(node, key)
                done = True
            for read in list(node.reads.elements()):
                self.close_it(node, read)
                done = True
        for node, pulling in self.stopping():
            self.stop_it(node, pulling)
            done = True
        for node, pulling in self.can_go_on():
            if node.pulls.get(pulling.command.key) is pulling:
                self.pull_on(node, pulling, lambda holders: holders[0])
                done = True
        for item in self.written():
            self.seal_it(item)
            done = True
        return done or before != (self.numbers, len(self.items))

    def teardown(self) -> None:
        self.settle()
        for item in self.freeable():
            self.free_it(item)
        self.settle()
        for node in self.living:
            assert all(self.items[key].free_was_lost for key in node.table.objects), "it is never freed"
        for node in self.living:
            self.lose_process(node)
        self.settle()
        for node in self.living:
            table = node.table
            assert not table.objects and not table.allocator.used_bytes and not table.waiting
            assert not node.requests and not node.pulls and not node.on_disk and not node.disk_jobs and not node.copies


TestCopiesMachine = CopiesMachine.TestCase
TestCopiesMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
