"""The wheel, built from a source archive and installed with its dependencies in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(*command: str | Path, cwd: Path) -> str:
    # Neither the checkout nor this environment may show through.
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=clean, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source archive and the wheel made from it."""
    folder = tmp_path_factory.mktemp("built")
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel and what it depends on, nothing else."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    (wheel,) = built.glob("*.whl")
    call(environment / "bin" / "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=environment)
    return environment / "bin" / "python"


def ask(python: Path, code: str) -> list[str]:
    return call(python, "-I", "-W", "error", "-c", code, cwd=python.parent).split()


def test_the_wheel_holds_two_packages_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"actorlite", "actorlite_transports"}
    assert {"actorlite/py.typed", "actorlite_transports/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_holds_what_the_tests_need(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = {"README.md", "LICENSE", "pyproject.toml", "tests/conftest.py", "docs/architecture.md"}
    assert wanted <= names
    assert not {name for name in names if name.startswith((".venv", ".git/")) or "__pycache__" in name}


def test_exactly_two_names_can_be_imported(python: Path) -> None:
    files = ask(
        python,
        "from importlib.metadata import files\n"
        "print(*sorted({str(each).partition('/')[0] for each in files('actorlite')}))",
    )
    assert [name for name in files if not name.endswith(".dist-info") and name != ".."] == [
        "actorlite",
        "actorlite_transports",
    ]
    found = ask(python, "from importlib.util import find_spec; print(find_spec('transports'), find_spec('tests'))")
    assert found == ["None", "None"]


def test_every_transport_of_the_table_is_there(python: Path) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "from actorlite.transport import TABLE, get_transport\n"
        "declared = {each.name: each.value for each in entry_points(group='actorlite.transports')}\n"
        "assert declared == TABLE, (declared, TABLE)\n"
        "print(*(type(get_transport(f'{scheme}://x')).__name__ for scheme in sorted(TABLE)))"
    )
    assert ask(python, code) == ["InprocTransport", "TcpTransport", "UdsTransport"]


def test_importing_actorlite_imports_nothing_it_does_not_need(python: Path) -> None:
    code = "import sys, actorlite; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(ask(python, code))
    assert "actorlite" in loaded
    heavy = {"aiohttp", "anyio", "click", "rich", "numpy", "importlib_metadata", "pytest"}
    assert loaded & heavy == set()


def test_the_command_says_what_it_needs(python: Path) -> None:
    done = subprocess.run([python.parent / "actorlite", "status"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'actorlite[cli]'" in done.stderr
