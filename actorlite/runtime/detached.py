"""Detached actors, from the side of the process that wants one: it sends all that is needed, and keeps nothing.

The node that leads the cluster owns the actor and makes it anew, and the actor ends with it. It must not load user
code, so class and arguments go as they were encoded here. The id is drawn here: the handle can be used at once.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from actorlite.context import current_call
from actorlite.definitions import ActorDefinition
from actorlite.ids import actor_id
from actorlite.options import ActorOptions
from actorlite.rpc.handshake import PYTHON
from actorlite.runtime.actors import Link
from actorlite.runtime.calls import Dependency, encode_arguments
from actorlite.runtime.names import entry_of, fail, holder_in, name_of
from actorlite.runtime.payloads import ref_entries
from actorlite.runtime.placing import NOT_PLACED, Placed, placed
from actorlite.state.actors import DeathCause
from actorlite.strategies import PlacementGroupStrategy
from actorlite.wire.code import CodeBlob
from actorlite.wire.control import CONTROL, CreateDetached, DetachedActor, EncodedValue, NameHolder
from actorlite.wire.serialize import Encoded, encode

if TYPE_CHECKING:
    from actorlite.runtime.runtime import ProcessRuntime

logger = logging.getLogger("actorlite.runtime")

MAX_BYTES = 64 * 2**20
"""Of a class, with what it captured, and of the arguments: all of it is written down."""


Slots = tuple[tuple[int | str, EncodedValue], ...]


class DetachedActors:
    """On the loop, but for `prepare`."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime

    def prepare(
        self, definition: ActorDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> tuple[Link, Callable[[], Coroutine[Any, Any, Link]]]:
        """A link, and what makes it an actor. From any thread. Raises `SerializationError`, `ValueError`."""
        runtime = self.runtime
        runtime.check_open()
        blob = runtime.code.blob_of(definition)
        encoded, dependencies = encode_arguments(args, kwargs)
        size = len(blob.data) + encoded.total_bytes
        if size > MAX_BYTES:
            raise ValueError(
                f"the detached actor {definition.name} has {size} bytes of code and arguments, and {MAX_BYTES} can be "
                "kept: let it read large data itself, or give it by a method"
            )
        place = NOT_PLACED
        if options.process != "shared":
            place = placed(options, options.request.placement, current_call.get(), definition.name)
        link = Link(runtime, actor_id(runtime.hub.fresh_id(), 0), definition, CONTROL, options)
        link.held = CONTROL  # nothing is counted there, and it is not weak either
        runtime.directory.held[link.id] = link
        strategy = options.scheduling_strategy
        group = strategy.placement_group if isinstance(strategy, PlacementGroupStrategy) else None
        if group is not None and group.is_detached is False:
            logger.warning(
                "the detached actor %r ends with placement group %s, which ends with the session that made it: make "
                'that with lifetime="detached", too',
                options.name,
                group.id,
            )
        if not options.namespace and runtime.namespace == runtime.job:
            logger.warning(
                "the detached actor %r is in a namespace of this session only, %r: give al.init() or the actor a "
                "namespace=, or others must know that one",
                options.name,
                runtime.namespace,
            )
        return link, partial(self._obtain, link, blob, encoded, dependencies, place)

    async def _obtain(
        self, link: Link, blob: CodeBlob, encoded: Encoded, dependencies: Sequence[Dependency], place: Placed
    ) -> Link:
        """Have the actor made, or return the living one that has its name. Raises `ControlUnavailable`."""
        own = self.runtime.hub.identity.address
        try:
            slots = [(position, _flat(encode(await ref), own)) for position, ref in dependencies]
        except Exception as error:  # whatever the task that made it has raised
            fail(link, f"an argument of its constructor failed: {error!r}", DeathCause.INIT_FAILED, init_failed=True)
            return link
        code = _flat(Encoded(0, blob.data, (), blob.handles), own)
        actor = _describe(link, code, blob.name, _flat(encoded, own), tuple(slots), place)
        found = await self.runtime.names.first(link, partial(self._ask, actor))
        if found is link:
            link.claim = ""
            if link.outbox:
                self.runtime.lookups.find(link)
            link.step()
        return found

    async def _ask(self, actor: DetachedActor) -> NameHolder:
        runtime = self.runtime
        return holder_in(await runtime.node_peer.request(next(runtime.hub.numbers), CreateDetached(actor)))

    def __repr__(self) -> str:
        return "<DetachedActors>"


def _describe(
    link: Link,
    code: EncodedValue,
    code_name: str,
    args: EncodedValue,
    slots: tuple[tuple[int | str, EncodedValue], ...],
    place: Placed,
) -> DetachedActor:
    namespace, name = name_of(link)
    definition = link.definition
    return DetachedActor(
        target=link.id,
        namespace=namespace,
        name=name,
        entry=entry_of(link),
        class_name=definition.name,
        options=pickle.dumps(link.options),
        code=code,
        code_name=code_name,
        args=args,
        slots=slots,
        sys_path=tuple([os.path.abspath(each) for each in sys.path]),
        cwd=_current_directory(),
        job_namespace=link.runtime.namespace,
        has_readonly=definition.has_readonly,
        has_stop=hasattr(definition.cls, "on_stop"),
        python=PYTHON,
        place=place[0],
        inside=place[1],
    )


def _flat(encoded: Encoded, own_address: str) -> EncodedValue:
    refs = ref_entries(encoded.handles, own_address) if encoded.handles else ()
    return EncodedValue(encoded.kind, bytes(encoded.data), tuple([bytes(each) for each in encoded.buffers]), refs)


def _current_directory() -> str:
    """Empty when it was removed under us."""
    try:
        return os.getcwd()
    except OSError:
        return ""
