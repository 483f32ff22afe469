from __future__ import annotations

import pickle
from typing import Any

import pytest

from actorlite.options import NOT_YET, ActorOptions, MethodOptions, TaskOptions
from actorlite.resources import ONE_CPU

TASK_DEFAULTS = TaskOptions(num_cpus=None, max_retries=3, num_returns=1, name=None, timeout=None)
ACTOR_DEFAULTS = ActorOptions(max_concurrency=1, max_pending_calls=1_000_000, process="dedicated")


def test_defaults_are_ray_s() -> None:
    assert TaskOptions.make() == TASK_DEFAULTS
    assert ActorOptions.make() == ACTOR_DEFAULTS
    assert MethodOptions.make() == MethodOptions(num_returns=1, name=None, timeout=None)


def test_none_stands_for_the_default() -> None:
    names = ["num_cpus", "max_retries", "num_returns", "name", "timeout", "runtime_env", "num_gpus", "max_calls"]
    assert TaskOptions.make(**dict.fromkeys(names)) == TASK_DEFAULTS
    assert ActorOptions.make(max_concurrency=None, max_pending_calls=None, lifetime=None) == ACTOR_DEFAULTS


def test_merged_keeps_the_rest() -> None:
    options = TaskOptions.make(num_cpus=2, max_retries=-1)
    assert options.merged(num_returns=2) == TaskOptions(num_cpus=2, max_retries=-1, num_returns=2)
    assert options.merged() is options
    assert options.merged(num_cpus=None).num_cpus is None
    assert hash(options.merged(num_returns=2)) == hash(options.merged(num_returns=2))


def test_options_travel() -> None:
    options = ActorOptions.make(process="shared", max_pending_calls=5)
    assert pickle.loads(pickle.dumps(options)) == options


@pytest.mark.parametrize(
    ("make", "keyword", "text"),
    [
        (TaskOptions.make, "nmu_cpus", "unknown option 'nmu_cpus' for tasks; did you mean 'num_cpus'?"),
        (ActorOptions.make, "max_retry", "did you mean"),
        (ActorOptions.make, "max_retries", "unknown option 'max_retries' for actors"),
        (MethodOptions.make, "timeuot", "did you mean 'timeout'?"),
        (MethodOptions.make, "zzzzz", "known are"),
        (TaskOptions.make, "session", r"per call: \.options\(session=session\)"),
    ],
)
def test_unknown_keywords_name_the_nearest(make: Any, keyword: str, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make(**{keyword: 1})


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (TaskOptions.make, "num_cpus", "1"),
        (TaskOptions.make, "num_cpus", True),
        (TaskOptions.make, "num_gpus", "1"),
        (ActorOptions.make, "memory", "1G"),
        (ActorOptions.make, "resources", [("x", 1)]),
        (TaskOptions.make, "resources", {"x": "1"}),
        (TaskOptions.make, "accelerator_type", 100),
        (TaskOptions.make, "schedule_timeout", "1s"),
        (TaskOptions.make, "resources", 1),
        (TaskOptions.make, "resources", {1: 1}),
        (TaskOptions.make, "num_returns", 1.0),
        (TaskOptions.make, "num_returns", "three"),
        (TaskOptions.make, "max_retries", "3"),
        (TaskOptions.make, "retry_exceptions", 3),
        (TaskOptions.make, "name", 3),
        (TaskOptions.make, "timeout", "1s"),
        (TaskOptions.make, "label_selector", {"a": 1}),
        (ActorOptions.make, "max_restarts", 1.5),
        (ActorOptions.make, "name", 3),
        (ActorOptions.make, "namespace", 3),
        (ActorOptions.make, "get_if_exists", 1),
        (ActorOptions.make, "concurrency_groups", ["io"]),
        (ActorOptions.make, "process", 3),
        (ActorOptions.make, "lifetime", 1),
        (MethodOptions.make, "concurrency_group", 1),
    ],
)
def test_a_wrong_type_names_option_and_value(make: Any, name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        make(**{name: value})


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (TaskOptions.make, "num_cpus", -1),
        (TaskOptions.make, "num_cpus", 0.00001),
        (TaskOptions.make, "num_gpus", 1.5),
        (TaskOptions.make, "num_gpus", -1),
        (ActorOptions.make, "num_gpus", 0.00001),
        (TaskOptions.make, "memory", float("nan")),
        (TaskOptions.make, "resources", {"": 1}),
        (ActorOptions.make, "resources", {"x": -1}),
        (TaskOptions.make, "resources", {"GPU": 1}),
        (TaskOptions.make, "resources", {"memory": 1}),
        (TaskOptions.make, "accelerator_type", ""),
        (TaskOptions.make, "schedule_timeout", 0),
        (ActorOptions.make, "schedule_timeout", -1),
        (TaskOptions.make, "memory", -1),
        (TaskOptions.make, "resources", {"CPU": 1}),
        (TaskOptions.make, "resources", {"bundle": 1}),
        (TaskOptions.make, "object_store_memory", 1),
        (TaskOptions.make, "num_returns", -1),
        (TaskOptions.make, "num_returns", "dynamic"),
        (TaskOptions.make, "stream_window", 0),
        (MethodOptions.make, "stream_window_bytes", 0),
        (TaskOptions.make, "max_retries", -2),
        (TaskOptions.make, "retry_exceptions", [int]),
        (TaskOptions.make, "max_calls", -1),
        (TaskOptions.make, "timeout", 0),
        (TaskOptions.make, "timeout", float("nan")),
        (ActorOptions.make, "max_restarts", -2),
        (ActorOptions.make, "max_pending_calls", -2),
        (ActorOptions.make, "max_pending_calls", 0),
        (ActorOptions.make, "max_concurrency", 0),
        (ActorOptions.make, "name", ""),
        (ActorOptions.make, "namespace", ""),
        (ActorOptions.make, "lifetime", "forever"),
        (ActorOptions.make, "process", "thread"),
        (ActorOptions.make, "concurrency_groups", {"io": 0}),
        (MethodOptions.make, "max_task_retries", -2),
    ],
)
def test_a_bad_value_names_option(make: Any, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        make(**{name: value})


def test_decorator_only_options() -> None:
    with pytest.raises(ValueError, match=r"max_calls=1 is not allowed in \.options\(\)"):
        TaskOptions.make().merged(max_calls=1)
    with pytest.raises(ValueError, match=r"concurrency_groups.*decorator"):
        ActorOptions.make().merged(concurrency_groups={"io": 2})


def test_options_that_contradict_each_other() -> None:
    for given in ({"get_if_exists": True}, {"namespace": "x"}, {"lifetime": "detached"}):
        options = ActorOptions.make(**given)
        with pytest.raises(ValueError, match=f"option {next(iter(given))}=.* needs name"):
            options.check_name()
        options.merged(name="x").check_name()
    with pytest.raises(ValueError, match="contradicts max_concurrency=2"):
        ActorOptions.make(allow_out_of_order_execution=False, max_concurrency=2)


SOMETHING: dict[str, tuple[Any, object]] = {
    "runtime_env": (TaskOptions, {"env_vars": {"A": "b"}}),
    "max_calls": (TaskOptions, 1),
    "enable_task_events": (TaskOptions, False),
    "allow_out_of_order_execution": (ActorOptions, True),
}


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_what_does_not_exist_yet_is_refused_not_ignored(name: str) -> None:
    kind, value = SOMETHING[name]
    with pytest.raises(ValueError, match=f"{name}=.* is not supported by this version of actorlite"):
        kind.make(**{name: value})


@pytest.mark.parametrize(
    ("kind", "keywords"),
    [
        (TaskOptions, {"retry_exceptions": False, "resources": {}, "label_selector": {}, "fallback_strategy": []}),
        (TaskOptions, {"enable_task_events": True, "max_calls": 0}),
        (ActorOptions, {"max_restarts": 0, "lifetime": "non_detached", "allow_out_of_order_execution": False}),
    ],
)
def test_values_that_ask_for_nothing_new_are_accepted(kind: Any, keywords: dict[str, Any]) -> None:
    assert kind.make(**keywords) == kind.make()


def test_what_tasks_and_actors_hold() -> None:
    assert TaskOptions.make().request is ONE_CPU and TaskOptions.make().is_plain
    options = TaskOptions.make(num_gpus=0.5, memory=10, resources={"x": 2, "a": 1}, accelerator_type="T4")
    assert str(options.request) == "CPU: 1, GPU: 0.5, a: 1, accelerator_type:T4: 0.001, memory: 10, x: 2"
    assert not options.is_plain and hash(options) == hash(options.merged(name=None))
    assert options.merged(num_gpus=None, resources=None, memory=None, accelerator_type=None).is_plain
    assert not TaskOptions.make(schedule_timeout=1).is_plain
    assert TaskOptions.make(num_gpus=0, resources={}).is_plain, "nothing is asked for"
    actor = ActorOptions.make()
    assert (str(actor.request.placement), str(actor.request.lifetime)) == ("CPU: 1", "nothing")
    actor = actor.merged(memory=10)
    assert (str(actor.request.placement), str(actor.request.lifetime)) == ("CPU: 1, memory: 10", "memory: 10")
    actor = actor.merged(resources={"x": 1})
    held = actor.request.lifetime
    assert actor.request.placement == held and str(held) == "CPU: 1, memory: 10, x: 1"
    assert pickle.loads(pickle.dumps(actor)).request == actor.request
    with pytest.raises(ValueError, match=r'num_gpus=1 contradicts process="shared"'):
        ActorOptions.make(process="shared").merged(num_gpus=1)


def test_retries_and_restarts() -> None:
    assert TaskOptions.make(retry_exceptions=[KeyError]).retry_exceptions == (KeyError,)
    assert hash(TaskOptions.make(retry_exceptions=[KeyError]))
    assert ActorOptions.make(max_restarts=-1, max_task_retries=2, stop_timeout=1).max_restarts == -1
    assert MethodOptions.make().max_task_retries is None
    assert MethodOptions.make(max_task_retries=0).max_task_retries == 0
    with pytest.raises(ValueError, match="stop_timeout"):
        ActorOptions.make(stop_timeout=0)
