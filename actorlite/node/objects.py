"""The node's object store: it gives out room in the segment, and moves what does not fit to disk and back.

`state.objects` decides; here its commands are carried out. No byte of a value passes through the loop: processes read
and write the segment themselves, and files are read and written in threads.
Invariant: what a process reads or writes stays where it is until that process says that it is done, or its pidfd says
that it is gone. The end of its connection is not enough: it may be alive, and reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import structs

from actorlite.errors import ActorliteError, ConnectionLost, ObjectLostError, ObjectStoreFullError
from actorlite.ids import ProcessId
from actorlite.node.disk import Disk
from actorlite.node.members import Members
from actorlite.node.segments import SegmentDesk
from actorlite.node.storefront import StoreOptions, pass_on
from actorlite.node.transfers import Transfers
from actorlite.rpc.hub import Hub
from actorlite.rpc.peer import Handlers, Peer
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
from actorlite.state.shortage import why_full
from actorlite.state.slabs import PlacedValue, Slabs
from actorlite.store.capacity import default_capacity
from actorlite.store.spilling import SpillError
from actorlite.wire.messages import Request, encode
from actorlite.wire.nodes import HasObject, SendChunk
from actorlite.wire.objects import (
    AbandonObject,
    ClaimObjects,
    CloseObjects,
    CreateObject,
    Explained,
    ExplainObjects,
    FreeObjects,
    Leased,
    LeaseRoom,
    ListedObject,
    Objects,
    OpenObject,
    PinsWanted,
    Placed,
    PlaceObjects,
    ReaderLost,
    SealObjects,
    StoreInfo,
)
from actorlite.wire.requests import Yes

logger = logging.getLogger("actorlite.node")

UNCLAIMED_S = 5.0
"""How long after the death of its writer an object waits for the word of its owner, which may be on its way: counted
from when the owner was heard of."""
MAX_ABANDONED = 1000
ASK_AGAIN_S = 1.0
OWNER_SAYS_S = 1.0
SOON_S = 0.5
MOST_PATIENCE_S = 20.0
SPILL_AGAIN_S = 1.0
"""How long after a failure to spill it is tried again."""


class NodeStore:
    """Made by the storefront. On the loop."""

    def __init__(self, hub: Hub, options: StoreOptions, members: Members) -> None:
        self.table = ObjectTable(options.capacity or default_capacity(), spills=bool(options.spill_to))
        self.slabs = Slabs(self.table, hub.peers.__contains__)
        self.desk = SegmentDesk(hub, self.table.allocator.capacity, options.channel, self._gone)
        self.desk.here.on_release = lambda process, key: self._do(self.table.close(key, process))
        self.disk = Disk(options.spill_to, hub.identity.process)
        self.transfers = Transfers(hub, members, self.table, self.desk)
        self._hub = hub
        self._members = members
        self._loop = asyncio.get_running_loop()
        self._copies: dict[Key, set[ProcessId]] = {}
        """The other nodes that have copied an object from here."""
        self._pulls: dict[Key, asyncio.Task[None]] = {}
        self._patience: dict[Key, float] = {}
        """Of pulls that were paused: how long the other node gets next time to have the object in memory."""
        self._backing = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._creating: dict[Key, tuple[int, asyncio.Future[int]]] = {}
        self._abandoned: dict[Key, None] = {}
        self._closed = False
        self._asks_again = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    def install(self, handlers: Handlers) -> None:
        handlers.on_requests(
            {
                CreateObject: self._create,
                OpenObject: self._open,
                HasObject: self._has,
                LeaseRoom: self._lease,
            }
        )
        handlers.on_messages(
            {
                PlaceObjects: self._place,
                SealObjects: lambda peer, message, parts: self._each(self.table.seal, message.keys),
                FreeObjects: self._free,
                SendChunk: self.transfers.send_chunk,
                AbandonObject: self._abandon,
                ClaimObjects: self._claim,
                CloseObjects: self._close,
                ReaderLost: self._reader_lost,
            }
        )

    async def start(self) -> None:
        """Hand out the segment to those who ask."""
        await self.desk.start()

    async def aclose(self) -> None:
        """Forget everything: what is on disk is deleted."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        for pull in self._pulls.values():
            pull.cancel()
        # Not cancelled: a thread that writes a file cannot be, and would leave it behind.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.disk.aclose()
        await self.desk.aclose()

    def process_lost(self, process: ProcessId) -> None:
        """It has no connection any more: what it owned is freed; what it reads is not, while it may be alive."""
        self._do(self.slabs.lost(process))
        self._do(self.table.owner_gone(process))
        self._forget_copies()
        self.desk.here.connection_lost(process)
        if not self.desk.may_read(process) or not self.table.is_used_by(process):
            self.desk.forget(process)
            self._gone(process)

    def node_lost(self, node: ProcessId) -> None:
        """Another node is gone, with its processes, its reads of objects here, and what only it had."""
        self._do(self.table.process_gone(node))
        adopted = self.table.copies_of(node)
        self._do(self.table.node_gone(node))
        for nodes in self._copies.values():
            nodes.discard(node)
        self._forget_copies()
        of: dict[ProcessId, list[Key]] = {}
        for key in filter(self.table.is_needed, adopted):
            of.setdefault(self.table.objects[key].owner, []).append(key)
        for owner, keys in of.items():
            self._spawn(self._see_if_needed(owner, keys))

    async def _see_if_needed(self, owner: ProcessId, keys: Sequence[Key]) -> None:
        """What the owner had let go may not have been passed on by the node that is gone."""
        try:
            said = await self._explanation(owner, keys)
        except (ActorliteError, TimeoutError):
            if self._is_there(owner, self._home_of(keys)):
                return  # its own end will be heard of
            said = ()
        held = {key for key, _, _ in said}
        for key in keys:
            if key not in held:
                self._do(self.table.free(key))

    def _forget_copies(self) -> None:
        """Of what was freed because its owner is gone."""
        objects = self.table.objects
        for key in [key for key in self._copies if (found := objects.get(key)) is None or found.freed]:
            self._tell_copies(key)

    def _tell_copies(self, key: Key) -> None:
        """An object is freed: so are its copies on other nodes."""
        for node in self._copies.pop(key, ()):
            if (there := self._members.peer(node)) is not None:
                there.tell(encode(FreeObjects((key,))))

    # --- requests

    async def _create(self, peer: Peer, body: CreateObject) -> Placed:
        if body.key in self._abandoned:
            del self._abandoned[body.key]
            raise ObjectLostError(f"object {body.key} was withdrawn by who wanted to write it")
        if not self._is_there(body.owner, body.home):
            raise ObjectLostError(f"object {body.key} is for process {body.owner}, which is gone")
        request, future = self._request()
        self._creating[body.key] = request, future
        future.add_done_callback(lambda _: self._creating.pop(body.key, None))
        self._do(self.table.create(request, body.key, body.size, body.owner, peer.identity.process, body.home))
        undo = partial(self.table.gave_up_writing, body.key)
        offset = await self._answer(request, future, body.timeout_s, undo, partial(self._why_full, body.key))
        try:
            await self._back(offset + body.size)
        except BaseException as error:
            self._do(undo())
            if not isinstance(error, OSError):
                raise
            raise ObjectStoreFullError(_no_memory(body.size, error)) from None
        return Placed(offset)

    def _is_there(self, owner: ProcessId, home: ProcessId) -> bool:
        """Whether somebody is there to free what is written for that process."""
        if home and home != self._hub.identity.process:
            return self._members.peer(home) is not None and (owner, home) not in self._members.ended
        return owner in self._hub.peers

    async def _open(self, peer: Peer, body: OpenObject) -> Placed:
        process = peer.identity.process
        source = body.node if body.node != self._hub.identity.process else HERE
        request, future = self._request()
        self._do(self.slabs.open(request, body.key, process, body.size, source))
        undo = partial(self.table.close, body.key, process)
        offset = await self._answer(request, future, body.timeout_s, undo, partial(self._why_full, body.key))
        if peer.identity.role != "node":
            return Placed(offset)
        found = self.table.objects.get(body.key)
        if found is None or found.freed:  # since it was granted: those who had copies then were told
            self._do(self.table.close(body.key, process))
            raise ObjectLostError(f"object {body.key} was let go by its owner")
        self._copies.setdefault(body.key, set()).add(process)
        return Placed(offset, found.owner, found.home or self._hub.identity.process)

    async def _has(self, peer: Peer, body: HasObject) -> Yes:
        return Yes(self.table.has(body.key))

    async def _lease(self, peer: Peer, body: LeaseRoom) -> Leased:
        slab = self.slabs.lease(body.key, peer.identity.process) if body.key not in self._abandoned else None
        if slab is None:
            self._abandoned.pop(body.key, None)
            return Leased(0, 0)
        offset, size = slab.offset, slab.size
        try:
            await self._back(offset + size)
        except BaseException as error:
            self._do(self.table.gave_up_writing(body.key))
            if not isinstance(error, OSError):
                raise
            return Leased(0, 0)
        return Leased(offset, size)

    def info(self) -> StoreInfo:
        """What a process needs to know that attaches."""
        return StoreInfo(self.desk.segment.capacity, self.desk.channel)

    async def explained(self) -> Objects:
        """The contents, with what their owners say of them."""
        found = self.contents()
        keys: dict[ProcessId, list[Key]] = {}
        for each in found.objects:
            keys.setdefault(each.owner, []).append(each.key)
        asked = [self._ask_owner(owner, tuple(own)) for owner, own in keys.items()]
        said = {key: (what, holders) for answer in await asyncio.gather(*asked) for key, what, holders in answer}
        objects = []
        for each in found.objects:
            what, holders = said.get(each.key, ("", ()))
            objects.append(structs.replace(each, what=what, held_by=holders, node=self._hub.identity.process))
        return structs.replace(found, objects=tuple(objects))

    async def _ask_owner(self, owner: ProcessId, keys: tuple[Key, ...]) -> Sequence[tuple[str, str, tuple[str, ...]]]:
        try:
            async with asyncio.timeout(OWNER_SAYS_S):
                return await self._explanation(owner, keys)
        except (ActorliteError, TimeoutError):
            return ()  # it is ending, or busy: the rest is worth knowing all the same

    async def _explanation(self, owner: ProcessId, keys: Sequence[Key]) -> Sequence[tuple[str, str, tuple[str, ...]]]:
        peer = self._peer_of(owner, keys)
        if peer is None:
            raise ConnectionLost(f"process {owner} is gone")
        answer = await peer.request(next(self._hub.numbers), ExplainObjects(tuple(keys), owner))
        return answer.objects if isinstance(answer, Explained) else ()

    def _peer_of(self, owner: ProcessId, keys: Sequence[Key]) -> Peer | None:
        """Who answers questions to the owner of these objects: itself, or its node."""
        home = self._home_of(keys)
        return self._members.peer(home) if home else self._hub.peers.get(owner)

    def _home_of(self, keys: Sequence[Key]) -> ProcessId:
        """Of objects that have one owner."""
        return next((found.home for key in keys if (found := self.table.objects.get(key)) is not None), HERE)

    def contents(self) -> Objects:
        table, slabs = self.table, self.slabs.leased
        objects = [each for each in table.objects.values() if each.key not in slabs]
        return Objects(
            table.allocator.capacity,
            table.allocator.used_bytes,
            table.allocator.fragmentation,
            sum(each.size for each in objects if each.location),
            table.waiting,
            tuple(
                ListedObject(
                    each.key,
                    each.size,
                    each.owner,
                    each.place.value,
                    tuple(each.pins.items()),
                    is_copy=bool(each.source),
                )
                for each in objects
                if not each.freed or each.pins
            ),
            tuple((process, peer.identity.role, peer.identity.pid) for process, peer in self._hub.peers.items()),
            sum(slabs.values()),
        )

    def _request(self) -> tuple[int, asyncio.Future[int]]:
        number = next(self._numbers)
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiting[number] = future
        return number, future

    async def _answer(
        self,
        request: int,
        future: asyncio.Future[int],
        timeout_s: float,
        undo: Callable[[], list[Command]],
        why_not: Callable[[], str],
    ) -> int:
        """The offset, once it is granted; a request that is given up leaves nothing behind."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except BaseException as error:
            text = why_not() if isinstance(error, TimeoutError) else ""
            self._do(self.slabs.withdraw(request))  # does nothing for one that was answered
            if not future.done():
                future.cancel()
            elif not future.cancelled() and future.exception() is None:
                self._do(undo())
            if text:
                raise ObjectStoreFullError(f"{text} (waited {timeout_s:g} s)") from None
            raise
        finally:
            del self._waiting[request]
            future.cancel()

    # --- messages

    def _each(self, event: Callable[[Key], list[Command]], keys: Sequence[Key]) -> None:
        for key in keys:
            self._do(event(key))

    def _abandon(self, peer: Peer, message: AbandonObject, parts: Sequence[memoryview]) -> None:
        request, waiting = self._creating.get(message.key, (0, None))
        if waiting is not None and not waiting.done():
            # Now, not when the request hears of it: until then it could be granted.
            waiting.set_exception(ObjectLostError(f"object {message.key} was withdrawn by who wanted to write it"))
            self._do(self.table.withdraw(request))
        elif message.key in self.table.objects:
            self._do(self.table.gave_up_writing(message.key))
        else:
            # Requests are seen to a pass later than messages: this one has overtaken its request, which follows.
            self._abandoned[message.key] = None
            while len(self._abandoned) > MAX_ABANDONED:
                del self._abandoned[next(iter(self._abandoned))]

    def _free(self, peer: Peer, message: FreeObjects, parts: Sequence[memoryview]) -> None:
        """Also of copies: here, where the message came from another node, and where this one has given some to."""
        elsewhere = pass_on(self._hub, self._members, message)
        by = None if elsewhere or peer.identity.role == "node" else peer.identity.process
        for key in message.keys:
            self._do(self.slabs.free(key, by))
            if not self.table.is_needed(key):
                self._tell_copies(key)

    def _claim(self, peer: Peer, message: ClaimObjects, parts: Sequence[memoryview]) -> None:
        if pass_on(self._hub, self._members, message):
            return
        for key in message.keys:
            self.slabs.claim(key)

    def _place(self, peer: Peer, message: PlaceObjects, parts: Sequence[memoryview]) -> None:
        for each in message.objects:
            self._do(self.slabs.place(PlacedValue(*each), peer.identity.process))

    def _close(self, peer: Peer, message: CloseObjects, parts: Sequence[memoryview]) -> None:
        for key, count in message.reads:
            self._do(self.table.close(key, peer.identity.process, count))

    def _reader_lost(self, peer: Peer, message: ReaderLost, parts: Sequence[memoryview]) -> None:
        self._free_unclaimed_later(self.table.unclaimed_of(peer.identity.process, message.process))

    def _gone(self, process: ProcessId, living: Mapping[Key, int] | None = None) -> None:
        unclaimed = self.table.unclaimed_of(process)
        self._do(self.table.process_gone(process, living))
        self._free_unclaimed_later(unclaimed)

    def _free_unclaimed_later(self, keys: list[Key]) -> None:
        """First the owners are asked anything: where user code blocks a loop, the news of a value lies before it."""
        of: dict[ProcessId, list[Key]] = {}
        for key in keys:
            if (found := self.table.objects.get(key)) is not None:
                of.setdefault(found.owner, []).append(key)
        for owner, own in of.items():
            heard = _Heard(partial(self._later, UNCLAIMED_S, partial(self._free_unclaimed, own)))
            if (peer := self._peer_of(owner, own)) is not None:
                number = next(self._hub.numbers)
                with contextlib.suppress(ConnectionLost):  # then what it owned is freed anyway
                    peer.call(number, heard, encode(Request(number, ExplainObjects((), owner))))

    def _free_unclaimed(self, keys: list[Key]) -> None:
        self._do(self.table.free_unclaimed(keys))

    # --- commands

    def _do(self, commands: list[Command]) -> None:
        for command in commands if not self._closed else ():
            match command:
                case Granted(request, offset):
                    future = self._waiting[request]
                    if not future.done():
                        future.set_result(offset)
                case Refused(request, text, lost):
                    future = self._waiting[request]
                    if not future.done():
                        future.set_exception(ObjectLostError(text) if lost else ObjectStoreFullError(text))
                case SpillOut():
                    self._spawn(self._spill(command))
                case ReadBack():
                    self._spawn(self._restore(command))
                case Pull():
                    pull = self._pulls[command.key] = self._spawn(self._pull(command))
                    pull.add_done_callback(partial(self._pull_ended, command.key))
                case StopPull(key):
                    self._pulls[key].cancel()
                case Forget(location):
                    self._spawn(self.disk.delete(location))
                case AskForPins():
                    self._ask_for_pins()

    def _ask_for_pins(self) -> None:
        """Now, and again while somebody waits: a value may have been opened, and kept at hand, meanwhile."""
        for process in {process for each in self.table.objects.values() for process in each.pins}:
            peer = self._hub.peers.get(process)
            if peer is not None and peer.identity.role != "node":  # another node copies it, and is done soon
                peer.tell(encode(PinsWanted()))
        if not self._asks_again:
            self._asks_again = True
            self._later(ASK_AGAIN_S, self._ask_again)

    def _ask_again(self) -> None:
        self._asks_again = False
        if self.table.waiting:
            self._ask_for_pins()

    async def _spill(self, command: SpillOut) -> None:
        try:
            location = await self.disk.write(command.key, self.desk.segment.readable(command.offset, command.size))
        except Exception as error:
            if not isinstance(error, SpillError):
                logger.exception("spilling failed in an unexpected way")
            logger.error("an object of %s bytes stays in memory: %s", command.size, error)
            self._do(self.table.spill_failed(command.key, str(error)))
            self._later(SPILL_AGAIN_S, lambda: self._do(self.table.try_again()))
        else:
            self._do(self.table.spilled(command.key, location))

    async def _restore(self, command: ReadBack) -> None:
        try:
            await self._back(command.offset + command.size)
        except OSError as error:
            self._do(self.table.restore_put_off(command.key, _no_memory(command.size, error)))
            return
        try:
            await self.disk.read(command.location, self.desk.segment.writable(command.offset, command.size))
        except SpillError as error:
            logger.error("%s", error)
            self._do(self.table.restore_failed(command.key, str(error)))
        except Exception as error:
            logger.exception("restoring failed in an unexpected way; the file is as it was")
            self._do(self.table.restore_put_off(command.key, f"object {command.key} could not be restored: {error}"))
        else:
            self._do(self.table.restored(command.key))

    async def _pull(self, command: Pull) -> None:
        key = command.key
        try:
            await self._back(command.offset + command.size)
            node = await self.transfers.pull(command, self._patience.get(key, SOON_S))
        except ObjectLostError as error:
            end = partial(self.table.restore_failed, key, str(error))
        except ObjectStoreFullError:
            # It may wait for what this node keeps for this very pull. So both begin anew, at moments of their own.
            patience = self._patience[key] = min(2 * self._patience.get(key, SOON_S), MOST_PATIENCE_S)
            self._later(patience * self._hub.luck(), lambda: self._do(self.table.pull_resumed(key)))
            self._do(self.table.pull_paused(key))
            return
        except Exception as error:
            text = f"object {key} could not be copied: {error}"
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                text = _no_memory(command.size, error)
            end = partial(self.table.restore_put_off, key, text)
        else:
            is_original = node == command.source and self._members.peer(node) is not None
            end = partial(self.table.restored, key, node if is_original else HERE)
        self._patience.pop(key, None)
        self._do(end())
        copy = self.table.objects.get(key)
        if copy is not None and not self._is_there(copy.owner, copy.home):
            self._do(self.table.free(key))  # its end was heard of before it was known whose this is

    def _pull_ended(self, key: Key, task: asyncio.Task[None]) -> None:
        # Not in `_pull`: what is cancelled before it has begun never runs.
        if self._pulls.get(key) is task:
            del self._pulls[key]
            if task.cancelled():
                self._patience.pop(key, None)
                self._do(self.table.pull_stopped(key))

    async def _back(self, end: int) -> None:
        """Have the kernel promise the memory below `end`: a writer must never meet a page that is not to be had."""
        segment = self.desk.segment
        if segment.backed < end:
            async with self._backing:
                await self.disk.in_thread(segment.back, end)

    # --- inside

    def _why_full(self, key: Key) -> str:
        """Why there is no room for an object, or it cannot be read."""
        found = self.table.objects.get(key)
        if self.slabs.is_awaited(key) or (found is not None and found.place is Place.WRITING and found.in_memory):
            return f"object {key} has not been written"
        text = why_full(self.table, found.size if found is not None else 0)
        for process, peer in self._hub.peers.items():
            text = text.replace(f"{process} (", f"{peer.identity.role} pid {peer.identity.pid} (")
        return text

    def _later(self, delay_s: float, work: Callable[[], None]) -> None:
        if self._closed:
            return

        def due() -> None:
            self._timers.discard(timer)
            work()

        timer = self._loop.call_later(delay_s, due)
        self._timers.add(timer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name="actorlite object store")
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the object store failed", exc_info=error)

    def __repr__(self) -> str:
        return f"<NodeStore {self.table!r}>"


class _Heard:
    """Waits until another process has answered, whatever it says, or is gone."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def answered(self, message: Any, parts: Sequence[memoryview]) -> None:
        self._then()

    def lost(self, error: ConnectionLost) -> None:
        self._then()


def _no_memory(size: int, error: OSError) -> str:
    return (
        f"the host has no memory for {size} bytes more: {error}; start the node with a smaller object_store_memory, so "
        "that values are spilled earlier"
    )
