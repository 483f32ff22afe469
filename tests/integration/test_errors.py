"""Errors of user code as the caller sees them, and errors about calls that cannot work."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import actorlite as al
from actorlite.errors import ActorDiedError, SerializationError, TaskError, TaskUnschedulableError

pytestmark = pytest.mark.asyncio


class OwnError(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}: {detail}")
        self.code = code
        self.detail = detail


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("has a lock")
        self.lock = threading.Lock()


class Unbuildable(Exception):
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("cannot be built")


@al.remote
def fail(error: str = "own") -> None:
    if error == "own":
        raise OwnError(7, detail="inside")
    if error == "unpicklable":
        raise Unpicklable
    if error == "unbuildable":
        raise Unbuildable("sad", 3)
    if error == "group":
        raise ExceptionGroup("several", [ValueError("a"), OwnError(1, detail="b")])
    if error == "stop":
        raise StopIteration("over")
    try:
        raise KeyError("first")
    except KeyError as cause:
        raise ValueError("second") from cause


@al.remote
async def through() -> None:
    await fail()


class Failing(al.Actor):
    def __init__(self, fine: bool = True) -> None:
        if not fine:
            raise OwnError(3, detail="constructor")

    async def fail(self) -> None:
        await fail.remote()

    async def ping(self) -> str:
        return "pong"


async def raised(awaitable: Any) -> BaseException:
    try:
        await awaitable
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


def notes(error: BaseException) -> str:
    return "\n".join(error.__notes__)


async def test_the_users_own_type_with_the_remote_traceback(cluster: al.Session) -> None:
    for awaitable in (fail.remote(), fail()):
        error = await raised(awaitable)
        assert type(error).__name__ == "OwnError"
        assert isinstance(error, OwnError)
        assert (error.code, error.detail, str(error)) == (7, "inside", "code 7: inside")
        text = notes(error)
        assert "Remote traceback" in text
        assert 'raise OwnError(7, detail="inside")' in text
        assert "raised in task fail() in worker pid" in text
        assert "actorlite/worker" not in text


async def test_one_line_for_each_process_that_it_passed(cluster: al.Session) -> None:
    error = await raised(Failing.remote().fail())
    assert isinstance(error, OwnError)
    text = notes(error)
    assert text.index("raised in task fail()") < text.index("via actor Failing.fail()")
    assert text.count("Remote traceback") == 1
    error = await raised(through())
    assert "via task through()" in notes(error)


async def test_causes_are_shown(cluster: al.Session) -> None:
    error = await raised(fail("chained"))
    assert isinstance(error, ValueError)
    assert "KeyError: 'first'" in notes(error)
    assert "direct cause" in notes(error)


@pytest.mark.parametrize("kind", ["unpicklable", "unbuildable"])
async def test_errors_that_do_not_travel_whole_still_say_everything(cluster: al.Session, kind: str) -> None:
    error = await raised(fail(kind))
    text = f"{type(error).__name__} {error} {notes(error)} {getattr(error, 'traceback_text', '')}"
    assert isinstance(error, TaskError) or type(error).__name__.lower() == kind
    assert ("has a lock" if kind == "unpicklable" else "sad") in text
    assert "raised in task fail()" in text


async def test_groups(cluster: al.Session) -> None:
    error = await raised(fail("group"))
    assert isinstance(error, ExceptionGroup)
    assert [type(each).__name__ for each in error.exceptions] == ["ValueError", "OwnError"]
    with pytest.raises(ExceptionGroup):
        await fail("group")


async def test_stop_iteration_becomes_a_runtime_error(cluster: al.Session) -> None:
    assert isinstance(await raised(fail("stop")), RuntimeError)


async def test_a_failed_argument_fails_the_call_that_needs_it(cluster: al.Session, gate: Any) -> None:
    @al.remote
    def use(first: int, *, named: Any = None) -> None:
        gate.arrive()

    bad = fail.remote()
    error = await raised(use.remote(1, named=bad))
    assert isinstance(error, OwnError)
    assert "argument 'named' of use() could not be computed, so use() did not run" in notes(error)
    error = await raised(use(al.arg(use.remote(al.arg(bad)))))  # type: ignore[arg-type]
    assert notes(error).count("could not be computed") == 2
    assert await raised(bad) is not None
    actor = Failing.remote(al.arg(bad))  # type: ignore[arg-type]
    error = await raised(actor.ping())
    assert isinstance(error, ActorDiedError)
    assert "OwnError" in str(error)


@pytest.mark.parametrize("many", [(1,), (1, 2, 3), 5], ids=["fewer", "more", "no sequence"])
async def test_a_wrong_number_of_results(cluster: al.Session, many: Any) -> None:
    @al.remote(num_returns=2)
    def wrong() -> Any:
        return many

    first, second = wrong.remote()
    error = await raised(first)
    assert type(error) is type(await raised(second))
    if isinstance(many, tuple):
        assert isinstance(error, ValueError)
        assert f"wrong() returned {len(many)} values, but num_returns=2" in str(error)
    else:
        assert isinstance(error, TypeError)


async def test_arguments_that_cannot_be_sent_name_the_path(cluster: al.Session) -> None:
    class Config:
        def __init__(self) -> None:
            self.db = {"lock": threading.Lock()}

    @al.remote
    def use(cfg: Any) -> None: ...

    for call in (lambda: use.remote(cfg=Config()), lambda: use.remote(Config())):
        with pytest.raises(SerializationError, match="lock") as caught:
            call()
        assert "db" in caught.value.path
    with pytest.raises(SerializationError):
        await use(Config())
    with pytest.raises(TypeError):
        await al.put(threading.Lock())
    actor = Failing.remote()
    with pytest.raises(SerializationError):
        Failing.remote(threading.Lock())  # type: ignore[arg-type]
    assert await actor.ping() == "pong"


async def test_a_result_that_cannot_be_sent(cluster: al.Session) -> None:
    @al.remote
    def lock() -> Any:
        return {"inside": threading.Lock()}

    error = await raised(lock())
    assert isinstance(error, SerializationError)
    assert "inside" in str(error)
    assert error.outcome is al.errors.Outcome.EXECUTED


async def test_code_that_cannot_be_sent(cluster: al.Session) -> None:
    lock = threading.Lock()

    @al.remote
    def closes_over() -> None:
        lock.acquire()

    with pytest.raises(SerializationError, match="lock"):
        closes_over.remote()


async def test_code_that_cannot_be_loaded(cluster: al.Session) -> None:
    class Odd:
        def __reduce__(self) -> Any:
            return _refuse, ()

    odd = Odd()

    @al.remote
    def captures() -> Any:
        return odd

    error = await raised(captures())
    assert "cannot be built" in str(error)
    assert await raised(fail()) is not None


async def test_arguments_that_cannot_be_built(cluster: al.Session) -> None:
    class Odd:
        def __reduce__(self) -> Any:
            return _refuse, ()

    @al.remote
    async def use(value: Any) -> None: ...

    assert "cannot be built" in str(await raised(use(Odd())))
    assert await Failing.remote().ping() == "pong"


async def test_a_failing_constructor(cluster: al.Session, all_free: Any) -> None:
    for process in ("dedicated", "shared"):
        actor = Failing.options(process=process).remote(fine=False)  # type: ignore[arg-type]
        early, (ready,) = actor.ping.remote(), await asyncio.gather(al.ready(actor), return_exceptions=True)
        for error in (await raised(early), await raised(actor.ping()), ready):
            assert isinstance(error, ActorDiedError)
            assert error.actor_init_failed
            assert "OwnError: code 3: constructor" in str(error)
    await all_free(cluster)


async def test_a_failing_constructor_frees_its_cpus(cluster: al.Session, all_free: Any) -> None:
    actors = [Failing.options(num_cpus=2).remote(fine=False) for _ in range(3)]
    for actor in actors:
        assert isinstance(await raised(actor.ping()), ActorDiedError)
    await all_free(cluster)


async def test_a_coroutine_constructor_is_refused_with_advice(cluster: al.Session) -> None:
    with pytest.raises(TypeError, match="on_start"):

        @al.remote
        class Decorated:
            async def __init__(self) -> None: ...

    with pytest.raises(TypeError, match="on_start"):

        class Derived(al.Actor):
            async def __init__(self) -> None: ...

        Derived.remote()


async def test_what_can_never_be_scheduled_fails_at_once(cluster: al.Session) -> None:
    error = await raised(fail.options(num_cpus=100).remote())
    assert isinstance(error, TaskUnschedulableError)
    assert "CPU: 98 too few" in str(error)


async def test_no_retry_of_what_user_code_raised(cluster: al.Session, gate: Any) -> None:
    @al.remote(max_retries=3)
    def once() -> None:
        gate.arrive()
        raise ConnectionResetError("mine")

    assert isinstance(await raised(once()), ConnectionResetError)
    await gate.arrived()


async def test_asking_why_does_not_say_that_it_was_the_transport(cluster: al.Session) -> None:
    @al.remote
    def lost() -> None:
        raise al.errors.ConnectionLost("raised by the user")

    error = await raised(lost())
    assert isinstance(error, al.errors.ConnectionLost)
    assert "raised in task lost()" in notes(error)
