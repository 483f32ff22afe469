"""What decorators, class keywords and `.options()` accept, validated: names and defaults are Ray's.

An unknown keyword is a `TypeError` naming the nearest one, a wrong type a `TypeError`, a bad value a `ValueError`.
Options whose behaviour this version does not have are validated all the same; a value that asks for the missing
behaviour is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar

from msgspec import Struct

from actorlite.checks import DEFAULT_GROUP as DEFAULT_GROUP
from actorlite.checks import (
    Check,
    want_anything,
    want_bool,
    want_count_from,
    want_gpus,
    want_groups,
    want_mailbox,
    want_nonempty_text,
    want_num_returns,
    want_object_store_memory,
    want_one_of,
    want_quantity,
    want_resources,
    want_retry_exceptions,
    want_seconds,
    want_text,
)
from actorlite.loading import nearest
from actorlite.mailboxes import DEFAULT_MAILBOX, Mailbox
from actorlite.resources import (
    ONE_CPU,
    ActorRequest,
    ResourceSet,
    actor_request,
    task_request,
)
from actorlite.strategies import (
    ANYWHERE,
    KEPT_AS,
    PlacedOptionsDict,
    Selector,
    Strategy,
    Where,
    check_fallback,
    check_light,
    check_selector,
    check_strategy,
    where,
)

if TYPE_CHECKING:
    from actorlite.context import Runtime

_O = TypeVar("_O", "TaskOptions", "ActorOptions", "MethodOptions")

NOT_YET: Mapping[str, str] = {
    "runtime_env": "runtime environments",
    "max_calls": "recycling a worker after a number of calls",
    "enable_task_events": "switching task events off",
    "allow_out_of_order_execution": "out-of-order execution",
}
"""Options known by name whose behaviour is not in this version, and what that behaviour is called."""


STREAMING = -1
"""What `num_returns="streaming"` is kept as: a generator's default, said aloud."""

STREAM_WINDOW = 16
"""Items of a stream that may be under way or not yet taken, unless `stream_window` says otherwise."""
STREAM_WINDOW_BYTES = 2**20
"""Bytes of such items from which on the producer waits, unless `stream_window_bytes` says otherwise."""

MAX_PENDING_CALLS = 1_000_000
"""Calls that one process may have pending on one actor, and tasks that it may have pending in all, unless it asks for
another number. A pending call costs its caller about a kilobyte."""

MAX_PENDING_BYTES = 2**30
"""The same in bytes of arguments. One that is larger by itself goes when nothing else is pending."""

DEFAULT_ACTOR = actor_request()
Quantities = tuple[tuple[str, float], ...]


class SessionLike(Protocol):
    """What `.options(session=...)` takes: an open session."""

    @property
    def runtime(self) -> Runtime: ...


class TaskOptionsDict(PlacedOptionsDict, total=False):
    """Keywords of `@al.remote(...)` on functions."""

    max_retries: int | None
    retry_exceptions: bool | Sequence[type[Exception]] | None
    name: str | None
    timeout: float | None
    stream_window: int | None
    stream_window_bytes: int | None


class TaskCallOptionsDict(TaskOptionsDict, total=False):
    """Keywords of `f.options(...)`; `num_returns` is written out where it changes the type of the result."""

    session: SessionLike | None


class ActorOptionsDict(PlacedOptionsDict, total=False):
    """Class keywords of an `al.Actor`, and keywords of `@al.remote(...)` on classes."""

    max_concurrency: int | None
    concurrency_groups: dict[str, int] | None
    """Decorator and class keyword only: in `.options()` a `ValueError`."""
    max_pending_calls: int | None
    mailbox: int | Mailbox | None
    reentrant: bool | None
    process: Literal["dedicated", "shared"]
    name: str | None
    namespace: str | None
    get_if_exists: bool | None
    lifetime: Literal["detached", "non_detached"] | None
    max_restarts: int | None
    max_task_retries: int | None
    stop_timeout: float | None


class ActorCallOptionsDict(ActorOptionsDict, total=False):
    """Keywords of `Cls.options(...)`."""

    session: SessionLike | None


class MethodOptionsDict(TypedDict, total=False):
    """Keywords of `@al.method(...)` and `handle.method.options(...)` beside `num_returns`."""

    name: str | None
    timeout: float | None
    stream_window: int | None
    stream_window_bytes: int | None
    concurrency_group: str | None
    max_task_retries: int | None
    retry_exceptions: bool | Sequence[type[Exception]] | None


class MethodDecoratorOptionsDict(MethodOptionsDict, total=False):
    """What only `@al.method(...)` takes."""

    readonly: bool | None


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Validated options of a task; build with `make`, change with `merged`."""

    num_cpus: float | None = None
    """None means the default: one CPU while the task runs."""
    max_retries: int = 3
    """How often the task runs again when its worker dies, or by `retry_exceptions`; -1 is without end."""
    num_returns: int = 1
    name: str | None = None
    timeout: float | None = None
    """The whole budget of the call in seconds, queueing included."""
    stream_window: int | None = None
    """For generators: items under way or not yet taken; None is `STREAM_WINDOW`."""
    stream_window_bytes: int | None = None
    """For generators: bytes of such items from which on the producer waits; None is `STREAM_WINDOW_BYTES`."""
    retry_exceptions: bool | tuple[type[Exception], ...] = False
    """Exceptions of the function after which it runs again: all, or those of these classes."""
    num_gpus: float | None = None
    """A share of one device, or whole devices."""
    memory: float | None = None
    """Bytes that are reserved; nothing measures what is used."""
    resources: Quantities = ()
    """Custom ones: names and quantities."""
    accelerator_type: str | None = None
    """The kind of GPU that its node must have, such as `"A100"`."""
    schedule_timeout: float | None = None
    """Seconds to wait for a worker, once its arguments exist; None: as long as it takes, if a node can ever have it."""
    scheduling_strategy: Strategy | None = None
    label_selector: Selector = ()
    fallback_strategy: tuple[Selector, ...] = ()
    where: Where = field(init=False, repr=False, compare=False, default=ANYWHERE)
    """What these three say of its node."""
    is_plain: bool = field(init=False, repr=False, compare=False, default=True)
    """Whether a call asks for nothing that must go with it."""
    request: ResourceSet = field(init=False, repr=False, compare=False, default=ONE_CPU)
    """What it holds while it runs."""

    def __post_init__(self) -> None:
        others = (self.num_gpus, self.memory, dict(self.resources), self.accelerator_type)
        if self.num_cpus is not None or any(others):
            object.__setattr__(self, "request", task_request(self.num_cpus, *others))
        placed = (self.scheduling_strategy, self.label_selector, self.fallback_strategy)
        if any(placed):
            object.__setattr__(self, "where", where(*placed))
        placing = (any(others), any(placed), self.schedule_timeout)
        special = (self.num_cpus is not None, *placing, self.name, self.timeout is not None)
        object.__setattr__(self, "is_plain", self.num_returns == 1 and not any(special))

    @classmethod
    def make(cls, **keywords: Any) -> TaskOptions:
        return cls(**_validated(_TASK, keywords, per_call=False))

    def merged(self, **keywords: Any) -> TaskOptions:
        """These options with some replaced, as `.options()` does."""
        return _merged(self, _TASK, keywords)


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """Validated options of an actor."""

    num_cpus: float | None = None
    """None: one CPU to be placed, none while alive. Given: held for the actor's life."""
    max_concurrency: int = 1
    max_pending_calls: int = MAX_PENDING_CALLS
    """Calls of one process that have not ended; -1 is without limit."""
    process: str = "dedicated"
    name: str | None = None
    concurrency_groups: Mapping[str, int] = field(default_factory=dict)
    """How many calls of each group run at once, beside those of the default group."""
    mailbox: int | Mailbox = DEFAULT_MAILBOX
    reentrant: bool = False
    """Whether a call may run beside the one that it came through."""
    max_restarts: int = 0
    """How often it is made anew when its worker dies; -1 is without end."""
    max_task_retries: int = 0
    """How often a call is sent again whose fate is unknown, unless method or call say otherwise; -1 is without end."""
    stop_timeout: float = 30.0
    """Seconds that `on_stop` may take when it ends gracefully."""
    namespace: str | None = None
    """Where the name counts; None is the session's."""
    get_if_exists: bool = False
    """Whether the actor that has the name already is as good as a new one."""
    lifetime: str = "non_detached"
    """`"detached"`: it outlives the process that creates it."""
    num_gpus: float | None = None
    """A share of one device, or whole devices."""
    memory: float | None = None
    """Bytes that are reserved; nothing measures what is used."""
    resources: Quantities = ()
    """Custom ones: names and quantities."""
    accelerator_type: str | None = None
    """The kind of GPU that its node must have, such as `"A100"`."""
    schedule_timeout: float | None = None
    """Seconds that it may wait for a worker, each time that it is made."""
    scheduling_strategy: Strategy | None = None
    label_selector: Selector = ()
    fallback_strategy: tuple[Selector, ...] = ()
    where: Where = field(init=False, repr=False, compare=False, default=ANYWHERE)
    """What these three say of its node."""
    request: ActorRequest = field(init=False, repr=False, compare=False, default=DEFAULT_ACTOR)
    """What it needs to be placed, and holds while it lives."""

    def __post_init__(self) -> None:
        if self.process == "shared" and self.num_gpus:
            raise ValueError(
                f'option num_gpus={self.num_gpus!r} contradicts process="shared": light actors are in one process, '
                "which sees the same devices for all of them; leave one of them out"
            )
        others = (self.num_gpus, self.memory, dict(self.resources), self.accelerator_type)
        if self.num_cpus is not None or any(others):
            object.__setattr__(self, "request", actor_request(self.num_cpus, *others))
        placed = (self.scheduling_strategy, self.label_selector, self.fallback_strategy)
        if any(placed):
            check_light(self.process)
            object.__setattr__(self, "where", where(*placed))

    @classmethod
    def make(cls, **keywords: Any) -> ActorOptions:
        return cls(**_validated(_ACTOR, keywords, per_call=False))

    def check_name(self) -> None:
        """Raise `ValueError` for what makes sense with a name only. When an actor is made: then all is said."""
        for option, given, reason in (
            ("get_if_exists=True", self.get_if_exists, "only a named actor can exist already"),
            (f"namespace={self.namespace!r}", self.namespace is not None, "it is where the name counts"),
            ("lifetime='detached'", self.is_detached, "nobody could reach it any more, and it would never end"),
        ):
            if given and self.name is None:
                raise ValueError(f"option {option} needs name=...: {reason}")

    @property
    def is_detached(self) -> bool:
        return self.lifetime == "detached"

    @property
    def box(self) -> Mailbox:
        return self.mailbox if isinstance(self.mailbox, Mailbox) else Mailbox(self.mailbox)

    @property
    def limits(self) -> tuple[int, int, int, str] | tuple[()]:
        """What a handle must know of its actor: `max_pending_calls`, and calls, bytes and policy of the mailbox.

        Empty for the defaults, which are the same everywhere.
        """
        box = self.box
        if self.max_pending_calls == MAX_PENDING_CALLS and box == DEFAULT_MAILBOX:
            return ()
        return self.max_pending_calls, box.calls, box.bytes, box.when_full

    def limited(self, limits: tuple[Any, ...]) -> ActorOptions:
        """These options with what `limits` of others says."""
        if not limits:
            return self
        most, calls, size, when_full = limits
        return replace(self, max_pending_calls=most, mailbox=Mailbox(calls, size, when_full))

    def merged(self, **keywords: Any) -> ActorOptions:
        """These options with some replaced, as `.options()` does."""
        return _merged(self, _ACTOR, keywords)


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """Validated options of one method, or of one call of it."""

    num_returns: int = 1
    name: str | None = None
    timeout: float | None = None
    stream_window: int | None = None
    stream_window_bytes: int | None = None
    concurrency_group: str | None = None
    readonly: bool = False
    """Whether it may run beside other calls that only read."""
    max_task_retries: int | None = None
    """None: what the actor says."""
    retry_exceptions: bool | tuple[type[Exception], ...] = False
    is_plain: bool = field(init=False, repr=False, compare=False, default=True)
    """Whether a call asks for nothing special."""

    def __post_init__(self) -> None:
        special = (self.name, self.timeout, self.concurrency_group, self.readonly, self.max_task_retries)
        object.__setattr__(self, "is_plain", self.num_returns == 1 and not any(special))

    @classmethod
    def make(cls, **keywords: Any) -> MethodOptions:
        return cls(**_validated(_METHOD, keywords, per_call=False))

    def merged(self, **keywords: Any) -> MethodOptions:
        """These options with some replaced, as `.options()` does."""
        return _merged(self, _METHOD, keywords)


def check_streaming(options: TaskOptions | MethodOptions, name: str, *, generator: bool) -> None:
    """Raise `ValueError` for options of a generator that are given to something else."""
    if generator:
        return
    given = {
        "num_returns": "streaming" if options.num_returns == STREAMING else None,
        "stream_window": options.stream_window,
        "stream_window_bytes": options.stream_window_bytes,
    }
    for option, value in given.items():
        if value is not None:
            raise ValueError(
                f"option {option}={value!r} needs a generator, and {name}() is none: write it with `yield`, or leave "
                "the option out"
            )


class _Rule(Struct, frozen=True):
    check: Check
    neutral: tuple[Any, ...] = (None,)
    """For an option of `NOT_YET`: the values that ask for nothing."""
    decorator_only: bool = False


def _no_rule(given: Mapping[str, Any]) -> None:
    """Of options together."""


class _Kind(Struct, frozen=True):
    """The options of tasks, actors or methods: which there are, and rules between them."""

    noun: str
    rules: Mapping[str, _Rule]
    defaults: Mapping[str, Any]
    together: Callable[[Mapping[str, Any]], None] = _no_rule


def _defaults(options: type[Any]) -> dict[str, Any]:
    return {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(options)
    }


_PLACED: Mapping[str, _Rule] = {
    "num_cpus": _Rule(want_quantity),
    "num_gpus": _Rule(want_gpus),
    "memory": _Rule(want_quantity),
    "resources": _Rule(want_resources),
    "object_store_memory": _Rule(want_object_store_memory),
    "accelerator_type": _Rule(want_nonempty_text),
    "schedule_timeout": _Rule(want_seconds),
    "scheduling_strategy": _Rule(check_strategy),
    "label_selector": _Rule(check_selector),
    "fallback_strategy": _Rule(check_fallback),
    "runtime_env": _Rule(want_anything, (None, {})),
    "enable_task_events": _Rule(want_bool, (None, True)),
}

_STREAMED: Mapping[str, _Rule] = {
    "stream_window": _Rule(want_count_from(1)),
    "stream_window_bytes": _Rule(want_count_from(1)),
}

_TASK = _Kind(
    "tasks",
    {
        **_PLACED,
        "num_returns": _Rule(want_num_returns),
        "max_retries": _Rule(want_count_from(0, unlimited=True)),
        "retry_exceptions": _Rule(want_retry_exceptions),
        "max_calls": _Rule(want_count_from(0), (None, 0), decorator_only=True),
        "name": _Rule(want_text),
        "timeout": _Rule(want_seconds),
        **_STREAMED,
    },
    _defaults(TaskOptions),
)


def _actor_together(given: Mapping[str, Any]) -> None:
    if given.get("allow_out_of_order_execution") is False and (given.get("max_concurrency") or 1) > 1:
        raise ValueError(
            f"option allow_out_of_order_execution=False contradicts max_concurrency={given['max_concurrency']}: "
            "calls that run at the same time have no order; leave one of them out"
        )


_ACTOR = _Kind(
    "actors",
    {
        **_PLACED,
        "max_restarts": _Rule(want_count_from(0, unlimited=True)),
        "max_task_retries": _Rule(want_count_from(0, unlimited=True)),
        "max_pending_calls": _Rule(want_count_from(1, unlimited=True)),
        "max_concurrency": _Rule(want_count_from(1)),
        "lifetime": _Rule(want_one_of("detached", "non_detached")),
        "name": _Rule(want_nonempty_text),
        "namespace": _Rule(want_nonempty_text),
        "get_if_exists": _Rule(want_bool),
        "concurrency_groups": _Rule(want_groups, decorator_only=True),
        "allow_out_of_order_execution": _Rule(want_bool, (None, False)),
        "process": _Rule(want_one_of("dedicated", "shared")),
        "stop_timeout": _Rule(want_seconds),
        "reentrant": _Rule(want_bool),
        "mailbox": _Rule(want_mailbox),
    },
    _defaults(ActorOptions),
    _actor_together,
)

_METHOD = _Kind(
    "methods",
    {
        "num_returns": _Rule(want_num_returns),
        "name": _Rule(want_text),
        "timeout": _Rule(want_seconds),
        **_STREAMED,
        "concurrency_group": _Rule(want_nonempty_text),
        "readonly": _Rule(want_bool, decorator_only=True),
        "max_task_retries": _Rule(want_count_from(0, unlimited=True)),
        "retry_exceptions": _Rule(want_retry_exceptions),
        "enable_task_events": _Rule(want_bool, (None, True)),
    },
    _defaults(MethodOptions),
)


def _validated(kind: _Kind, keywords: Mapping[str, Any], *, per_call: bool) -> dict[str, Any]:
    """The fields to set. None stands for the default everywhere, as in Ray."""
    for name, value in keywords.items():
        rule = kind.rules.get(name)
        if rule is None:
            raise _unknown(kind, name)
        if rule.decorator_only and per_call:
            raise ValueError(f"option {name}={value!r} is not allowed in .options(): give it to the decorator")
        if value is not None:
            rule.check(name, value)
    kind.together(keywords)
    values: dict[str, Any] = {}
    if keywords.get("num_returns") == "streaming":
        keywords = {**keywords, "num_returns": STREAMING}
    for name, value in keywords.items():
        if name in kind.defaults:
            value = kind.defaults[name] if value is None else value
            if name in KEPT_AS:
                value = KEPT_AS[name](value) if value else ()
            values[name] = tuple(value) if isinstance(value, list) else value
        elif name in NOT_YET and value not in kind.rules[name].neutral:
            raise ValueError(
                f"option {name}={value!r} is not supported by this version of actorlite, which does not have "
                f"{NOT_YET[name]}: leave it out"
            )
    return values


def _merged(options: _O, kind: _Kind, keywords: Mapping[str, Any]) -> _O:
    if not keywords:
        return options
    return replace(options, **_validated(kind, keywords, per_call=True))


def _unknown(kind: _Kind, name: str) -> TypeError:
    if name == "session":
        return TypeError("option session is given per call: .options(session=session)")
    near = nearest(name, kind.rules)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(kind.rules))}"
    return TypeError(f"unknown option {name!r} for {kind.noun}; {hint}")
