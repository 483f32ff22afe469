from __future__ import annotations

import os
from pathlib import Path

import pytest

from actorlite.config import (
    Settings,
    node_address,
    prepare_private_directory,
    read_token,
    runtime_directory,
    session_directory_of,
    shared_node_address,
    shared_session_directory,
    write_token,
)
from actorlite.errors import ConnectFailed


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings(address="local", loop="uvloop", namespace="", runtime_root="/tmp")


def test_empty_variables_count_as_unset() -> None:
    names = ("ACTORLITE_ADDRESS", "ACTORLITE_LOOP", "ACTORLITE_NAMESPACE", "TMPDIR", "XDG_RUNTIME_DIR")
    assert Settings.from_environment(dict.fromkeys(names, "")) == Settings()


def test_each_variable_is_read(tmp_path: Path) -> None:
    environ = {
        "ACTORLITE_ADDRESS": "uds:///run/x/node.sock",
        "ACTORLITE_LOOP": "asyncio",
        "ACTORLITE_NAMESPACE": "serving",
        "XDG_RUNTIME_DIR": str(tmp_path),
        "TMPDIR": "/var/tmp",
    }
    assert Settings.from_environment(environ) == Settings("uds:///run/x/node.sock", "asyncio", "serving", str(tmp_path))


def test_an_unknown_loop_is_refused_by_the_variables_name() -> None:
    with pytest.raises(ValueError, match="ACTORLITE_LOOP='trio'.*uvloop, asyncio"):
        Settings.from_environment({"ACTORLITE_LOOP": "trio"})


@pytest.mark.parametrize("xdg", ["relative/path", "/no/such/directory"])
def test_an_unusable_xdg_directory_is_passed_over(xdg: str, tmp_path: Path) -> None:
    assert Settings.from_environment({"XDG_RUNTIME_DIR": xdg, "TMPDIR": str(tmp_path)}).runtime_root == str(tmp_path)
    assert Settings.from_environment({"XDG_RUNTIME_DIR": xdg, "TMPDIR": "relative"}).runtime_root == "/tmp"


def test_an_xdg_directory_of_another_user_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert Settings.from_environment({"XDG_RUNTIME_DIR": str(tmp_path)}).runtime_root == "/tmp"


def test_the_shared_session_has_one_place_per_user() -> None:
    settings = Settings(runtime_root="/run/user/7")
    uid = os.getuid()
    assert runtime_directory(settings) == Path(f"/run/user/7/actorlite-{uid}")
    assert shared_session_directory(settings) == Path(f"/run/user/7/actorlite-{uid}/default")
    assert shared_node_address(settings) == f"uds:///run/user/7/actorlite-{uid}/default/node.sock"
    assert session_directory_of(shared_node_address(settings)) == shared_session_directory(settings)


def test_a_node_address_leads_back_to_its_directory() -> None:
    assert session_directory_of(node_address(Path("/run/x"))) == Path("/run/x")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "uds://relative/node.sock", "auto", "uds://"])
def test_other_addresses_have_no_session_directory(address: str) -> None:
    with pytest.raises(ValueError, match="uds:///directory/name"):
        session_directory_of(address)


def test_a_private_directory_is_made_once_and_found_again(tmp_path: Path) -> None:
    made = prepare_private_directory(tmp_path / "mine")
    assert made.stat().st_mode & 0o777 == 0o700
    assert prepare_private_directory(made) == made


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o755)
    with pytest.raises(PermissionError, match="mode 0755"):
        prepare_private_directory(path)


def test_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="not a directory"):
        prepare_private_directory(path)


def test_somebody_elses_directory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = prepare_private_directory(tmp_path / "mine")
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to user"):
        prepare_private_directory(path)


def test_a_token_comes_back_and_is_private(tmp_path: Path) -> None:
    directory = prepare_private_directory(tmp_path / "mine")
    write_token(directory, b"\x00secret\xff")
    assert read_token(node_address(directory)) == b"\x00secret\xff"
    assert [(each.name, each.stat().st_mode & 0o777) for each in directory.iterdir()] == [("token", 0o600)]


def test_no_token_means_no_node(tmp_path: Path) -> None:
    with pytest.raises(ConnectFailed, match="actorlite start"):
        read_token(f"uds://{tmp_path}/node.sock")


def test_a_token_in_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    directory = prepare_private_directory(tmp_path / "mine")
    write_token(directory, b"secret")
    directory.chmod(0o711)
    with pytest.raises(ConnectFailed, match="mode 0711"):
        read_token(node_address(directory))


def test_a_damaged_token_is_refused(tmp_path: Path) -> None:
    directory = prepare_private_directory(tmp_path / "mine")
    (directory / "token").write_text("no hex")
    with pytest.raises(ConnectFailed, match="no token to attach"):
        read_token(node_address(directory))
