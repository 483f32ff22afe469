"""Ray's microbenchmark on actorlite, and on peers in the same run: alternating, row by row, medians and ratios.

    python tests/benchmarks/micro.py --against ray=/path/to/python --against executor --floor --json result.json

Each peer runs in one child process of its own that lives for the whole run (see `rowserver`).
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import report
from report import OURS, Results
from rows import ROWS, Row

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    OURS: "rows_actorlite.py",
    "ray": "rows_ray.py",
    "xoscar": "rows_xoscar.py",
    "executor": "rows_executor.py",
    "floor": "floor.py",
}
END_GRACE_S = 20.0


class RunnerFailed(Exception):
    """A row runner ended, or did not answer in time."""


class Runner:
    """One row runner: its process group is this object's, and `close` leaves none of it alive."""

    def __init__(self, peer: str, python: str, quick: bool, log: int) -> None:
        environment = dict(os.environ)
        # As installed: packages keep their byte code, a checkout in a shell with this variable would not.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)  # it names packages for this interpreter, not for the peer's
        argv = [python, "-W", "ignore", str(HERE / SCRIPTS[peer]), *(["--quick"] if quick else [])]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._buffer = b""

    def receive(self, timeout_s: float, tick: Callable[[], None]) -> dict[str, object]:
        """The next message; calls `tick` twice a second meanwhile."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if time.monotonic() > deadline:
                raise RunnerFailed(f"no answer within {timeout_s:g} s")
            if self._selector.select(0.5):
                data = os.read(self._output.fileno(), 65536)
                if not data:
                    raise RunnerFailed(f"the runner ended with status {self._process.wait()}")
                self._buffer += data
            tick()
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, object] = json.loads(line)
        return message

    def ask(self, row: str, repeat: int, timeout_s: float, tick: Callable[[], None]) -> dict[str, object]:
        try:
            self._input.write(json.dumps({"row": row, "repeat": repeat}).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError:
            raise RunnerFailed(f"the runner ended with status {self._process.wait()}") from None
        return self.receive(timeout_s, tick)

    def close(self) -> None:
        """Let it close its session, then kill what is left of its process group."""
        try:
            with suppress(BrokenPipeError):
                self._input.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_GRACE_S)
        finally:
            self.kill()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with suppress(BrokenPipeError):
            self._input.close()
        self._output.close()
        self._selector.close()


class Progress:
    """One line on standard error, rewritten in place on a terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._label = ""
        self._live = sys.stderr.isatty()

    def start(self, label: str) -> None:
        self._label = label
        self.tick()
        if not self._live:
            print(f"[{self._done + 1}/{self._total}] {label}", file=sys.stderr, flush=True)

    def tick(self) -> None:
        if self._live:
            spent = time.monotonic() - self._started
            line = f"[{self._done + 1}/{self._total}] {spent:4.0f} s  {self._label}"
            print(f"\r\x1b[K{line[:110]}", end="", file=sys.stderr, flush=True)

    def finish(self, steps: int = 1) -> None:
        self._done += steps

    def clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Run:
    """One benchmark run: the runners, started when first needed, and what they have answered."""

    def __init__(self, pythons: dict[str, str], options: argparse.Namespace, log: int) -> None:
        self.results = Results()
        self._pythons = pythons
        self._quick: bool = options.quick
        self._timeout_s: float = options.timeout
        self._repeats: int = options.repeats
        self._log = log
        self._runners: dict[str, Runner] = {}
        self._offered: dict[str, set[str]] = {}

    def rows(self, rows: Sequence[Row]) -> None:
        progress = Progress(len(rows) * self._repeats * len(self._pythons))
        try:
            for peer in self._pythons:
                progress.start(f"starting {peer}")
                self._start(peer, progress.tick)
            for row in rows:
                for repeat in range(self._repeats):
                    for peer in self._pythons:
                        self._sample(row.name, peer, repeat, progress)
        finally:
            progress.clear()
            for runner in self._runners.values():
                runner.close()

    def _start(self, peer: str, tick: Callable[[], None]) -> None:
        runner = Runner(peer, self._pythons[peer], self._quick, self._log)
        try:
            hello = runner.receive(self._timeout_s, tick)
        except RunnerFailed as error:
            runner.kill()
            self._offered.setdefault(peer, set())
            self.results.errors["start", peer] = str(error)
            return
        except BaseException:
            runner.kill()
            raise
        self._runners[peer] = runner
        offered = hello["rows"]
        assert isinstance(offered, list)
        self._offered[peer] = set(offered)
        self.results.peers[peer] = f"{hello['version']} on Python {hello['python']}"

    def _sample(self, row: str, peer: str, repeat: int, progress: Progress) -> None:
        results = self.results
        if row not in self._offered[peer] or (row, peer) in results.errors:
            progress.finish()
            return
        progress.start(f"{peer}: {row}")
        if peer not in self._runners:
            self._start(peer, progress.tick)
        runner = self._runners.get(peer)
        if runner is not None:
            try:
                answer = runner.ask(row, repeat, self._timeout_s, progress.tick)
                if "error" in answer:
                    results.errors[row, peer] = str(answer["error"])
                else:
                    results.samples.setdefault((row, peer), []).append(float(str(answer["value"])))
            except RunnerFailed as error:  # a new runner goes on with the next row
                results.errors[row, peer] = str(error)
                self._runners.pop(peer).kill()
        progress.finish()


def _pythons(against: Sequence[str], floor: bool) -> dict[str, str]:
    pythons = {OURS: sys.executable}
    for item in against:
        peer, _, python = item.partition("=")
        if peer not in SCRIPTS or peer == OURS:
            raise SystemExit(f"--against: unknown peer {peer!r}; known are ray, xoscar, executor")
        if not python and peer != "executor":
            raise SystemExit(f"--against {peer}=PYTHON: name the interpreter that has {peer}")
        pythons[peer] = python or sys.executable
    if floor:
        pythons["floor"] = sys.executable
    return pythons


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", action="append", default=[], metavar="PEER=PYTHON", help="ray, xoscar, executor")
    parser.add_argument("--floor", action="store_true", help="add the bare uvloop and msgspec echo")
    parser.add_argument("--rows", default="", metavar="PATTERN", help="only rows in which this expression is found")
    parser.add_argument("--repeats", type=int, metavar="N", help="samples per row and peer (default 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small sizes and short times: shows that it runs")
    parser.add_argument("--timeout", type=float, default=180.0, metavar="S", help="for one sample (default 180)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, samples included")
    parser.add_argument("--log", type=Path, metavar="FILE", help="what the runners print (default: dropped)")
    options = parser.parse_args(argv)
    if options.repeats is None:
        options.repeats = 1 if options.quick else 3
    return options


def compile_sources() -> None:
    """What an installation does, and a checkout may lack: without bytecode every new process would compile ours."""
    for package in ("actorlite", "actorlite_transports"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            compileall.compile_dir(folder, quiet=2)


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    compile_sources()
    rows = [row for row in ROWS if re.search(options.rows, row.name)]
    if not rows:
        raise SystemExit(f"--rows: no row matches {options.rows!r}")
    with open(options.log or os.devnull, "wb") as log:
        run = Run(_pythons(options.against, options.floor), options, log.fileno())
        run.rows(rows)
    results = run.results
    for peer, version in results.peers.items():
        print(f"{peer} {version}")
    print(report.table(results, rows))
    for line in report.limits(results):
        print(line)
    for line in report.failures(results):
        print("error:", line)
    if options.json:
        options.json.write_text(json.dumps(report.document(results, rows), indent=1) + "\n")
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main())
