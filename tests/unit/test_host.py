from __future__ import annotations

import dataclasses
import pickle
import signal

import pytest

from actorlite.host import ExitReport, SystemEntropy, WorkerSpec
from actorlite.ids import ProcessId


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (ExitReport(17), "pid 17 ended"),
        (ExitReport(17, exit_code=0), "pid 17 exited with code 0"),
        (ExitReport(17, signal=9), "pid 17 was killed by signal 9 (SIGKILL)"),
        (ExitReport(17, signal=63), "pid 17 was killed by signal 63"),
        (ExitReport(17, exit_code=3, reason="idle"), "pid 17 exited with code 3 (idle)"),
        (
            ExitReport(17, signal=11, max_rss_bytes=31 * 2**20),
            "pid 17 was killed by signal 11 (SIGSEGV), peak memory 31 MiB",
        ),
    ],
)
def test_an_exit_is_described_in_one_line(report, text):
    assert report.describe() == text


def test_the_last_words_of_a_process_are_quoted():
    text = ExitReport(17, exit_code=1, stderr_tail="a\nb").describe()
    assert text == "pid 17 exited with code 1; last stderr lines:\na\nb"


@pytest.mark.parametrize("number", [int(each) for each in signal.Signals if int(each) in (1, 2, 6, 9, 11, 15, 24)])
def test_signals_have_the_system_s_names(number):
    assert f"({signal.Signals(number).name})" in ExitReport(1, signal=number).describe()


def test_specs_and_reports_are_values():
    spec = WorkerSpec(ProcessId("0" * 16), "uds:///n", "uds:///w", b"token")
    for value, name in ((spec, "job"), (ExitReport(17), "pid")):
        assert pickle.loads(pickle.dumps(value)) == value
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)


def test_the_token_is_not_shown():
    spec = WorkerSpec(ProcessId("0" * 16), "uds:///n", "uds:///w", b"secret")
    assert "secret" not in repr(spec)


def test_entropy_gives_other_bytes_each_time():
    entropy = SystemEntropy()
    drawn = {entropy.token_bytes(32) for _ in range(10)}
    assert len(drawn) == 10 and {len(each) for each in drawn} == {32}
