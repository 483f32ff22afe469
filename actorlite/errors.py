"""The one exception tree.

Every error that ends a call says whether the work may have run: see `Outcome` and `ActorliteError.outcome`.
Names are Ray's where the concept is Ray's; each class subclasses the builtin that it resembles.
"""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """What is known about the work behind a failed call."""

    NOT_EXECUTED = "not executed"
    """The callee certainly did not start: repeating the call is safe."""
    UNKNOWN = "unknown outcome"
    """The callee may have run, wholly or in part."""
    EXECUTED = "executed"
    """The callee ran and ended; the error is its result."""


class ActorliteError(Exception):
    """Base of all errors raised by actorlite.

    An error is an instance of `NotExecuted` or of `UnknownOutcome` as well when its `outcome` is that, whatever else it
    is: `except al.errors.NotExecuted` catches what is safe to repeat.
    """

    default_outcome = Outcome.NOT_EXECUTED

    def __init__(self, message: str = "", *, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome or self.default_outcome

    @property
    def outcome(self) -> Outcome:
        """What is known about the work."""
        return self._outcome

    @outcome.setter
    def outcome(self, outcome: Outcome) -> None:
        self._outcome = outcome
        object.__setattr__(self, "__class__", _with_outcome(_kind_of(type(self)), outcome))

    def __reduce__(self) -> tuple[object, ...]:
        state = {name: value for name, value in vars(self).items() if name != "_outcome"}
        return _kind_of(type(self)), self.args, {**state, "outcome": self.outcome}

    @property
    def may_have_run(self) -> bool:
        """False only when repeating the call is certainly safe."""
        return self.outcome is not Outcome.NOT_EXECUTED


class NotExecuted(ActorliteError):
    """The callee certainly did not start: repeating the call is safe. Never raised by itself, see `ActorliteError`."""


class UnknownOutcome(ActorliteError):
    """The callee may have run, wholly or in part. Never raised by itself, see `ActorliteError`."""

    default_outcome = Outcome.UNKNOWN


_BY_OUTCOME: dict[Outcome, type[ActorliteError]] = {
    Outcome.NOT_EXECUTED: NotExecuted,
    Outcome.UNKNOWN: UnknownOutcome,
}


def _kind_of(cls: type[ActorliteError]) -> type[ActorliteError]:
    """The class as written, which pickles by name."""
    kind: type[ActorliteError] = vars(cls).get("__actorlite_kind__", cls)
    return kind


_made: dict[tuple[type[ActorliteError], Outcome], type[ActorliteError]] = {}


def _with_outcome(kind: type[ActorliteError], outcome: Outcome) -> type[ActorliteError]:
    """The class, and that of the outcome, in one; by the same name."""
    known = _made.get((kind, outcome))
    if known is not None:
        return known
    made = kind
    also = _BY_OUTCOME.get(outcome)
    if also is not None and not issubclass(kind, also):
        own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        bases = (also,) if issubclass(also, kind) else (kind, also)
        made = type(kind.__name__, bases, {**own, "__actorlite_kind__": kind})
    return _made.setdefault((kind, outcome), made)


# --- the session ------------------------------------------------------------------------------------------


class NoSessionError(ActorliteError, RuntimeError):
    """No session is current, or several are open and none was chosen."""


class SessionClosedError(ActorliteError, RuntimeError):
    """The session was shut down, or its node is gone."""


class BlockingCallError(ActorliteError, RuntimeError):
    """A blocking wait on a thread that runs an event loop; await the reference instead."""


# --- what user code raised ----------------------------------------------------------------------------------


class TaskError(ActorliteError):
    """User code raised an exception that could not be carried over; type, arguments and traceback are in the text."""

    default_outcome = Outcome.EXECUTED

    def __init__(self, message: str = "", *, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_task_error, (str(self), self.type_name, self.traceback_text)


def _rebuild_task_error(message: str, type_name: str, traceback_text: str) -> TaskError:
    return TaskError(message, type_name=type_name, traceback_text=traceback_text)


class SerializationError(ActorliteError, TypeError):
    """A value, function or class cannot be pickled; `path` names the offending member, like `cfg.db._lock`."""

    def __init__(self, message: str = "", *, path: str = "", outcome: Outcome | None = None) -> None:
        super().__init__(message, outcome=outcome)
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_serialization_error, (str(self), self.path, self.outcome)


def _rebuild_serialization_error(message: str, path: str, outcome: Outcome) -> SerializationError:
    return SerializationError(message, path=path, outcome=outcome)


# --- how a call can end without its result ------------------------------------------------------------------


class TaskCancelledError(ActorliteError):
    """The work was cancelled by `al.cancel` or by its caller."""


class WorkerCrashedError(ActorliteError):
    """The worker process died while it ran the task, and no retry is left."""

    default_outcome = Outcome.UNKNOWN


class TaskUnschedulableError(ActorliteError):
    """No node has what the task needs, or none had it within its `schedule_timeout`; the text says what is missing."""


class ActorUnschedulableError(ActorliteError):
    """No node has what the actor needs, or none had it within its `schedule_timeout`; the text says what is missing."""


class PlacementGroupError(ActorliteError):
    """A placement group could not be made, or what it is needed for cannot be done; the text says why."""


class PlacementGroupRemoved(PlacementGroupError):
    """The placement group was removed, or ended with its creator."""


class TaskPlacementGroupRemoved(PlacementGroupRemoved):
    """The placement group that the task was to run in was removed."""


class BundleMoved(PlacementGroupError):
    """A bundle is not, or not any more, on the node that was asked; nodes tell each other, and look again."""


class NodeDraining(ActorliteError):
    """The node takes nothing new, because it is about to leave the cluster; nodes tell each other, and ask another."""


class DrainRefused(ActorliteError):
    """The node cannot be drained; the text says why, and what to do instead."""


class ActorError(ActorliteError):
    """Base of the errors about an actor's life."""

    default_outcome = Outcome.UNKNOWN


class ActorDiedError(ActorError):
    """The actor is gone for good. `actor_init_failed` is True when its constructor raised."""

    def __init__(self, message: str = "", *, actor_init_failed: bool = False, outcome: Outcome | None = None) -> None:
        super().__init__(message, outcome=outcome)
        self.actor_init_failed = actor_init_failed


class ActorAlreadyExistsError(ActorDiedError, ValueError):
    """Another actor has the name, so this one was not made."""

    default_outcome = Outcome.NOT_EXECUTED


class ActorPlacementGroupRemoved(ActorDiedError, PlacementGroupRemoved):
    """The placement group that the actor was in, or was to be made in, was removed; the actor is gone for good."""


class ActorNotFoundError(ActorliteError, ValueError):
    """No living actor has the name in the namespace."""


class ActorUnavailableError(ActorError):
    """The actor was lost under the call, and comes back or may come back; calls made from now on wait for it."""


class PendingCallsLimitExceeded(ActorliteError):
    """This process already has as much pending on the actor, or as many tasks, as it may have."""


class MailboxFullError(ActorliteError):
    """The actor's mailbox was full, and its policy refuses or drops calls: see `Mailbox`."""


class CallCycleError(ActorliteError, RuntimeError):
    """A structured call would wait for itself: a call that it came through holds what it needs. The text names all."""


class GetTimeoutError(ActorliteError, TimeoutError):
    """`get` or `wait` gave up waiting; the work itself goes on."""

    default_outcome = Outcome.UNKNOWN


class DeadlineExceeded(ActorliteError, TimeoutError):
    """The call's own budget (`timeout=`) ran out."""

    default_outcome = Outcome.UNKNOWN


class NodeDiedError(ActorliteError):
    """The node daemon, or its zygote, is gone and took its workers with it."""

    default_outcome = Outcome.UNKNOWN


class ControlUnavailable(ActorliteError, ConnectionError):
    """The node that leads the cluster cannot be reached, or cannot keep its state: names, detached actors and the like
    have to wait. Other work goes on. Whether what was asked for has happened is not known."""

    default_outcome = Outcome.UNKNOWN


class NodeStartError(ActorliteError, RuntimeError):
    """The node daemon did not start; the text carries what it said."""


class WorkerStartError(ActorliteError, RuntimeError):
    """A worker process could not be started or did not become ready."""


# --- objects ------------------------------------------------------------------------------------------------


class ObjectLostError(ActorliteError):
    """The value is gone and cannot be made again."""

    default_outcome = Outcome.EXECUTED


class ObjectStoreFullError(ActorliteError):
    """The node has no room for a value, and none became free in time. The text says who uses what."""

    default_outcome = Outcome.NOT_EXECUTED


class ObjectReconstructionFailedError(ObjectLostError):
    """The value is lost, and the task that made it cannot run again; the text says why."""


class OwnerDiedError(ObjectLostError):
    """The process that owned the value died, or ended before the value was there."""


# --- transport and wire -------------------------------------------------------------------------------------


class TransportError(ActorliteError, ConnectionError):
    """Base of everything that goes wrong between two processes."""


class ConnectFailed(TransportError):
    """Nobody listens at the address, or it cannot be used."""


class ConnectionLost(TransportError):
    """An open connection ended: closed by us, closed by the peer, or broken; the text says which."""

    default_outcome = Outcome.UNKNOWN


class ProtocolError(TransportError):
    """The peer sent what the protocol does not allow."""


class FrameTooLarge(ProtocolError):
    """A frame above the limit was announced and refused before anything was allocated."""


class AuthenticationError(TransportError, PermissionError):
    """The peer does not know the cluster token, or runs as another user."""


class VersionMismatch(TransportError):
    """The peer speaks another protocol version or runs another minor version of Python."""
