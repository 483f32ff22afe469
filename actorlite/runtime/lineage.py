"""How a lost value is made again: by running the task that made it once more (Ray: lineage reconstruction).

Kept is what the task was: its function, its options, its small arguments. Of large arguments only how they were made
is kept, so that they may be freed; when the task has to run again they are made again first. What cannot be made again
says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ReferenceType
from weakref import ref as weak

from actorlite.errors import ObjectReconstructionFailedError
from actorlite.refs import ObjectRef
from actorlite.wire.serialize import STORED

if TYPE_CHECKING:
    from actorlite.runtime.calls import Dependency
    from actorlite.runtime.tasks import TaskOut

MAX_ARGUMENT_BYTES = 100 * 1024
"""Of the arguments that are kept for one value."""
MAX_TOTAL_BYTES = 64 << 20
"""Of all arguments that a process keeps for this."""

PUT = "it was made by al.put(), and nothing says how"
ACTOR = "it was made by a method of an actor, whose state is another one now"
SEVERAL = "it is one of several results of a task"
YIELDED = "it was yielded by a generator, which could tell another story now"
RETRIES_DISABLED = "the task that made it has max_retries=0"
LARGE_ARGUMENTS = "the task that made it had large arguments, which are gone: give it references to them"
EVICTED = "the arguments of the task that made it are not kept: there are too many of them"
HANDED_OVER = "the process that could have made it again has ended, and has handed it over"
ATTEMPTS = "it was made again as often as max_retries allows"

Origin: TypeAlias = "Recipe | str"
"""How to make a value again, or why that cannot be."""

_kept = [0]
"""Bytes of arguments."""


class Recipe:
    """A task that has made a value, for when the value is lost."""

    __slots__ = ("_task", "_dependencies", "left", "_size")

    def __init__(self, task: TaskOut, dependencies: Sequence[Dependency]) -> None:
        self._task = task
        self._dependencies = [(position, _Ingredient(ref)) for position, ref in dependencies]
        self.left = task.retries
        """How often it may run again; negative for ever."""
        self._size = len(task.encoded.data)
        _kept[0] += self._size

    def __del__(self) -> None:
        _kept[0] -= self._size

    def cook(self, ref: ObjectRef[Any]) -> None:
        """Run the task again, for `ref`. Raises `ObjectReconstructionFailedError` when it cannot run."""
        if not self.left:
            raise ObjectReconstructionFailedError(ATTEMPTS)
        dependencies = [(position, each.get()) for position, each in self._dependencies]
        if self.left > 0:
            self.left -= 1
        self._task.once_more(ref, dependencies, self)

    def __repr__(self) -> str:
        return f"<Recipe {self._task.name} left={self.left}>"


class _Ingredient:
    """A reference that was an argument. Itself when its value is small; else as long as somebody has it, and then
    another one to a value made by the same recipe."""

    __slots__ = ("_kept", "_ref", "_origin", "_runtime")

    def __init__(self, ref: ObjectRef[Any]) -> None:
        self._runtime: Any = ref.runtime
        large = ref._stored is not None
        self._kept = None if large else ref
        self._ref: ReferenceType[ObjectRef[Any]] = weak(ref)
        self._origin: Origin = ref._stored.origin if large else ""

    def get(self) -> ObjectRef[Any]:
        ref = self._kept or self._ref()
        if ref is not None:
            return ref
        if isinstance(self._origin, str):
            raise ObjectReconstructionFailedError(f"an argument of the task that made it is gone: {self._origin}")
        ref = ObjectRef(self._runtime, next(self._runtime.hub.numbers))
        self._origin.cook(ref)
        return ref


def origin_of_result(task: TaskOut, dependencies: Sequence[Dependency]) -> Origin:
    """For the large result of a task that has just ended."""
    if task.recipe is not None:
        return task.recipe
    if not task.retries:
        return RETRIES_DISABLED
    if task.encoded.kind == STORED:
        return LARGE_ARGUMENTS
    size = len(task.encoded.data)
    if size > MAX_ARGUMENT_BYTES or task.encoded.buffers or _kept[0] + size > MAX_TOTAL_BYTES:
        return EVICTED
    return Recipe(task, dependencies)
