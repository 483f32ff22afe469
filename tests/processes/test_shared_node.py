"""`actorlite start`, `stop` and `status` as a user runs them, and sessions that attach."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import asyncio, sys
import actorlite as al

@al.remote
def double(x):
    return 2 * x

@al.remote
def modules():
    import sys
    return sorted(sys.modules)

async def main():
    async with al.init(sys.argv[1]):
        print(await double(21), "colorsys" in await modules())

asyncio.run(main())
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory that is the user's runtime root; what still runs there at the end is stopped."""
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.delenv("ACTORLITE_ADDRESS", raising=False)
        paths = [str(ROOT), str(ROOT / "transports"), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        yield Path(directory)
        actorlite("stop")


def actorlite(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "actorlite", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def done(*arguments: str) -> str:
    result = actorlite(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refused(*arguments: str) -> str:
    result = actorlite(*arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr.startswith("Error: ")
    return result.stderr


def run_program(address: str) -> str:
    command = [sys.executable, "-c", PROGRAM, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def pid_in(text: str) -> int:
    found = re.search(r"pid (\d+)", text)
    assert found
    return int(found[1])


def runs(pid: int) -> bool:
    """Whether the process has not ended; its parent, which is nobody of ours, may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def left_in(place: Path) -> list[str]:
    """What is below the runtime root besides the log and the lock, which stay."""
    paths = (path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file() or path.is_socket())
    return sorted(path for path in paths if not path.endswith((".log", ".lock")))


def test_start_use_and_stop(place: Path) -> None:
    started = done("start", "--num-cpus", "3", "--preload", "colorsys")
    directory = place / f"actorlite-{os.getuid()}" / "default"
    assert f"address uds://{directory}/node.sock" in started
    assert 'attach with al.init("auto"), end with actorlite stop\n' in started
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "token").stat().st_mode & 0o777 == 0o600
    shown = done("status")
    assert f"pid {pid_in(started)}, address uds://{directory}/node.sock" in shown
    assert "0 of 3 leased" in shown
    assert run_program("auto") == run_program(f"uds://{directory}/node.sock") == "42 True\n"
    assert pid_in(done("stop")) == pid_in(started)
    assert not runs(pid_in(started))
    assert left_in(place) == []


def test_nodes_join_and_one_after_another_stops(place: Path) -> None:
    started = done("start", "--num-cpus", "1")
    (first,) = re.findall(r"address (uds://\S+),", started)
    others = [f"uds://{place}/{name}/node.sock" for name in ("second", "third")]
    for other, joined in zip(others, ("auto", others[0]), strict=True):
        told = done("start", "--num-cpus", "1", "--address", other, "--join", joined)
        assert f"it has joined the cluster of the node at {first if joined == 'auto' else joined}\n" in told
    for each in (first, *others):
        shown = done("status", "--address", each)
        rows = re.findall(r"^[0-9a-f]{16} +(\d+) +0 of 1 +(\S+) *(leads)?", shown, re.M)
        assert {address for _, address, _ in rows} == {first, *others}
        assert rows[0][1] == each
        assert [address for _, address, leads in rows if leads] == [first]
    assert (place / "second" / "token").read_text() == (place / "third" / "token").read_text()
    assert run_program(others[1]) == "42 False\n"
    done("stop", "--address", others[0])
    assert others[0] not in done("status")
    assert run_program(others[1]) == "42 False\n"
    done("start", "--num-cpus", "1", "--address", others[0], "--join", others[1])
    assert all(each in done("status") for each in (first, *others))
    done("stop", "--address", others[0])
    done("stop", "--address", others[1])
    assert others[1] not in done("status")
    done("stop")
    assert left_in(place) == []


def test_who_cannot_join_is_told_why(place: Path) -> None:
    nowhere, own = f"uds://{place}/nowhere/node.sock", f"uds://{place}/own/node.sock"
    text = refused("start", "--address", own, "--join", nowhere)
    assert f"cannot join the node at {nowhere}: no node runs" in text
    assert "start that node first" in text
    for address, says in (
        (own, "the new node itself has that address"),
        ("tcp://127.0.0.1:1", "uds:///directory/name"),
    ):
        wrong = actorlite("start", "--address", own, "--join", address)
        assert wrong.returncode == 2
        assert says in wrong.stderr
    assert left_in(place) == []


def test_a_node_that_joins_leaves_what_one_that_led_wrote_down(place: Path) -> None:
    own = f"uds://{place}/own/node.sock"
    os.kill(pid_in(done("start", "--address", own)), signal.SIGKILL)
    (state,) = place.rglob("*.state")
    before = state.read_bytes()
    done("start")
    done("start", "--address", own, "--join", "auto")
    done("stop", "--address", own)
    assert state.read_bytes() == before
    done("start", "--address", own)
    done("stop", "--address", own)
    done("stop")
    assert left_in(place) == []


def test_what_a_node_has(place: Path) -> None:
    told = ("--num-cpus", "1", "--num-gpus", "2", "--memory", str(2**30), "--max-workers", "3", "--idle-workers", "0")
    done("start", *told, "--resources", '{"disk": 2}', "--labels", '{"zone": "a"}')
    shown = done("status")
    for line in ("GPU      0 of 2 leased", "disk     0 of 2 leased", "memory   0 of 1 GiB leased", "labels   zone=a"):
        assert line in shown
    done("stop")


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--resources", '{"CPU": 2}', "resources must not contain 'CPU': use num_cpus="),
        ("--resources", "disk", "'disk' is not JSON"),
        ("--labels", "[1]", "is not a JSON object"),
        ("--labels", '{"a b": "c"}', "labels key 'a b'"),
    ],
)
def test_what_a_node_cannot_have_is_wrong_usage(place: Path, option: str, value: str, text: str) -> None:
    result = actorlite("start", option, value)
    assert result.returncode == 2
    assert text in result.stderr


def test_a_second_start_finds_the_first(place: Path) -> None:
    pid = pid_in(done("start"))
    assert f"already runs at uds://{place}" in (text := refused("start"))
    assert pid_in(text) == pid
    assert run_program("auto") == "42 False\n"


def test_of_two_starts_at_once_one_wins(place: Path) -> None:
    command = [sys.executable, "-m", "actorlite", "start"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert run_program("auto") == "42 False\n"


def test_nothing_runs(place: Path) -> None:
    assert "no node runs at uds://" in refused("status")
    assert "actorlite start" in refused("stop")


def test_what_a_killed_node_left_is_removed(place: Path) -> None:
    directory = place / f"actorlite-{os.getuid()}" / "default"
    directory.mkdir(mode=0o700, parents=True)
    directory.parent.chmod(0o700)
    (directory / "token").write_text("00" * 32)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "node.sock"))
    assert "no node runs" in refused("status") or "node.sock" in refused("status")
    done("start")
    assert run_program("auto") == "42 False\n"


def test_a_killed_node_leaves_room_for_the_next(place: Path) -> None:
    pid = pid_in(done("start"))
    os.kill(pid, signal.SIGKILL)
    assert pid_in(done("start")) != pid
    assert run_program("auto") == "42 False\n"


def test_a_directory_of_something_else_is_left_alone(place: Path) -> None:
    other = place / "photos"
    other.mkdir(mode=0o700)
    (other / "cat.jpg").write_text("cat")
    text = refused("start", "--address", f"uds://{other}/node.sock")
    assert "is no session directory, it holds cat.jpg" in text
    assert (other / "cat.jpg").read_text() == "cat"


def test_an_address_of_ones_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"uds://{place}/mine/node.sock"
    started = done("start", "--address", address)
    assert f'attach with al.init("{address}"), end with actorlite stop --address {address}' in started
    assert "no node runs" in refused("status")
    monkeypatch.setenv("ACTORLITE_ADDRESS", address)
    assert address in done("status")
    assert run_program(address) == "42 False\n"
    done("stop")
    assert not (place / "mine").exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "uds://relative", "nonsense"])
def test_an_address_that_cannot_be_used_is_wrong_usage(place: Path, address: str) -> None:
    result = actorlite("start", "--address", address)
    assert result.returncode == 2
    assert "uds:///directory/name" in result.stderr


def test_a_preload_that_fails_is_named(place: Path) -> None:
    assert "no_such_module" in refused("start", "--preload", "no_such_module")
    assert left_in(place) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_node_in_the_foreground_ends_with_its_command(place: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "actorlite", "start", "--foreground"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        node = pid_in(process.stdout.readline())
        assert run_program("auto") == "42 False\n"
        process.send_signal(number)
        said = process.stdout.read()
    assert process.returncode == (0 if number != signal.SIGKILL else -number)
    if number != signal.SIGKILL:
        assert f"pid {node} exited with code 0" in said
        assert left_in(place) == []
