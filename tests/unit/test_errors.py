from __future__ import annotations

import copy
import pickle

import pytest

from actorlite import errors
from actorlite.errors import ActorliteError, Outcome

CLASSES = sorted(
    (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ActorliteError)),
    key=lambda each: each.__name__,
)
MARKERS = {Outcome.NOT_EXECUTED: errors.NotExecuted, Outcome.UNKNOWN: errors.UnknownOutcome}
CLASSES = [each for each in CLASSES if each not in MARKERS.values()]

BUILTINS = {
    "NoSessionError": RuntimeError,
    "SessionClosedError": RuntimeError,
    "BlockingCallError": RuntimeError,
    "SerializationError": TypeError,
    "GetTimeoutError": TimeoutError,
    "DeadlineExceeded": TimeoutError,
    "NodeStartError": RuntimeError,
    "WorkerStartError": RuntimeError,
    "TransportError": ConnectionError,
    "ConnectFailed": ConnectionError,
    "ConnectionLost": ConnectionError,
    "ControlUnavailable": ConnectionError,
    "ProtocolError": ConnectionError,
    "AuthenticationError": PermissionError,
    "ActorAlreadyExistsError": ValueError,
    "ActorNotFoundError": ValueError,
}

OUTCOMES = {
    "TaskError": Outcome.EXECUTED,
    "ObjectLostError": Outcome.EXECUTED,
    "ObjectReconstructionFailedError": Outcome.EXECUTED,
    "OwnerDiedError": Outcome.EXECUTED,
    "WorkerCrashedError": Outcome.UNKNOWN,
    "ActorError": Outcome.UNKNOWN,
    "ActorDiedError": Outcome.UNKNOWN,
    "ActorPlacementGroupRemoved": Outcome.UNKNOWN,
    "ActorUnavailableError": Outcome.UNKNOWN,
    "GetTimeoutError": Outcome.UNKNOWN,
    "DeadlineExceeded": Outcome.UNKNOWN,
    "NodeDiedError": Outcome.UNKNOWN,
    "ControlUnavailable": Outcome.UNKNOWN,
    "ConnectionLost": Outcome.UNKNOWN,
}
"""All others: surely not executed."""


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_says_whether_the_work_may_have_run(cls):
    error = cls("text")
    assert error.outcome is OUTCOMES.get(cls.__name__, Outcome.NOT_EXECUTED)
    assert error.may_have_run == (error.outcome is not Outcome.NOT_EXECUTED)


def test_the_outcomes_listed_here_are_of_classes_that_exist():
    names = {each.__name__ for each in CLASSES}
    assert OUTCOMES.keys() <= names and BUILTINS.keys() <= names


@pytest.mark.parametrize("name", BUILTINS)
def test_an_error_is_caught_as_the_builtin_that_it_resembles(name):
    with pytest.raises(BUILTINS[name]):
        raise getattr(errors, name)("text")


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_needs_no_text_and_has_a_docstring(cls):
    assert str(cls()) == ""
    assert cls.__doc__


@pytest.mark.parametrize("cls", [each for each in CLASSES if each is not errors.TaskError])
def test_the_outcome_of_one_case_may_be_known_better(cls):
    for outcome in Outcome:
        assert cls("text", outcome=outcome).outcome is outcome


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_survives_copying(cls, again):
    error = cls("text")
    if cls is not errors.TaskError:
        error.outcome = Outcome.UNKNOWN
    twin = again(error)
    assert type(twin) is type(error) and str(twin) == "text" and twin.outcome is error.outcome
    assert vars(twin) == vars(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.TaskError("text", type_name="mod.Error", traceback_text="Traceback ..."),
        errors.SerializationError("text", path="cfg.db._lock", outcome=Outcome.EXECUTED),
        errors.ActorDiedError("text", actor_init_failed=True, outcome=Outcome.NOT_EXECUTED),
    ],
    ids=lambda error: type(error).__name__,
)
def test_fields_survive_pickling(error):
    twin = pickle.loads(pickle.dumps(error))
    assert vars(twin) == vars(error) and str(twin) == "text"


@pytest.mark.parametrize("cls", [each for each in CLASSES if each is not errors.TaskError])
def test_an_error_is_of_the_type_of_its_outcome(cls):
    for outcome in Outcome:
        error = cls("text", outcome=outcome)
        for each, marker in MARKERS.items():
            assert isinstance(error, marker) == (each is outcome)
        assert isinstance(error, cls) and type(error).__name__ == cls.__name__
    error.outcome = Outcome.NOT_EXECUTED  # it turned out
    with pytest.raises(errors.NotExecuted):
        raise error
    assert type(cls("text", outcome=Outcome.UNKNOWN)) is type(cls("other", outcome=Outcome.UNKNOWN))


def test_classes_of_users_have_their_outcome_too():
    class Own(errors.ActorUnavailableError):
        def __init__(self, number):
            super().__init__(f"number {number}", outcome=Outcome.NOT_EXECUTED)
            self.number = number

    error = Own(3)
    assert isinstance(error, errors.NotExecuted) and isinstance(error, Own) and error.number == 3


def test_the_base_catches_all():
    assert all(issubclass(each, ActorliteError) for each in CLASSES) and len(CLASSES) > 25
    assert not issubclass(ActorliteError, RuntimeError | OSError | TypeError)
