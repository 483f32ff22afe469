"""Examples run as a user runs them: as programs, with a deadline. What they leave behind fails the test."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Programs:
    """Starts programs in a private directory, whose path is short enough to hold a socket."""

    directory: Path

    def path(self, script: str) -> str:
        return str(EXAMPLES / script)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.directory,
            env={**os.environ, "TMPDIR": str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, deadline_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
        """Run to the end, whatever it is."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=deadline_s)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def output(self, script: str, *arguments: str, deadline_s: float = DEADLINE_S) -> str:
        """What an example prints; it has to succeed and to keep quiet on stderr."""
        done = self.run(self.path(script), *arguments, deadline_s=deadline_s)
        assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def node(self) -> Iterator[str]:
        """A node daemon that programs attach to, started and stopped as a user does it."""
        address = f"uds://{self.directory}/shared/node.sock"
        started = self.run("-m", "actorlite", "start", "--address", address, "--num-cpus", "2")
        assert started.returncode == 0, started.stderr
        try:
            yield address
        finally:
            stopped = self.run("-m", "actorlite", "stop", "--address", address)
        assert stopped.returncode == 0, stopped.stderr


@pytest.fixture
def programs() -> Iterator[Programs]:
    with TemporaryDirectory() as directory:
        yield Programs(Path(directory))
        # The log and the lock of a shared node stay, by design.
        left = [path for path in Path(directory).rglob("*") if path.suffix not in (".log", ".lock")]
        assert [path for path in left if not path.is_dir() or path.name == "shared"] == []


@pytest.fixture
def load_example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports an example under its own name, as a program beside it would."""

    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """About thirty files: a package, tests, files that are hard to read, and folders that are skipped."""
    root = tmp_path / "tree"
    bodies: dict[str, bytes] = {}
    for number in range(24):
        lines = [f'"""Module {number}."""', "import os", f"LIMIT_{number} = {number}", ""]
        for each in range(40):
            lines += [
                f"def parse_{each}(text, limit=LIMIT_{number}):",
                f"    value = os.path.join(text, 'part {each}')",
                "    return parse(value)",
                "",
            ]
        bodies[f"package_{number % 3}/module_{number:02}.py"] = "\n".join(lines).encode()
    bodies |= {
        "parser.py": b"class Parser:\n    async def parse(self, text):\n        def inner(): pass\n"
        b"        return inner\n    kind = other = 'x'\n\ndef parse(text):\n    return Parser().parse(text)\n",
        "windows.py": b"# two line ends\r\ndef carriage():\r\n    return 'return'\r\n",
        "latin.py": "# -*- coding: latin-1 -*-\ndef grüße(): pass\n".encode("latin-1"),
        "broken.py": b"def parse(:\n    searched all the same\n",
        "undecodable.py": b"x = '\xff\xfe'\ndef parse_bytes(): pass\n",
        "tests/test_parser.py": b"def parse(text):\n    return text\n",
        "empty.py": b"",
        "site-packages/installed.py": b"def parse(): pass\n",
        ".hidden/secret.py": b"def parse(): pass\n",
        "notes.txt": b"def parse(): pass\n",
    }
    for name, body in bodies.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return root
