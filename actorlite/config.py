"""Settings from the environment, and where a shared node is found: the only reader of environment variables.

The well-known place for the address `auto` is `<runtime root>/actorlite-<uid>/default/`, with `node.sock` and `token`
in it. The directory is private: mode 0700 and owned by this user, or it is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from actorlite.errors import ConnectFailed

LoopName: TypeAlias = Literal["uvloop", "asyncio"]

LOOPS: tuple[LoopName, ...] = ("uvloop", "asyncio")
DEFAULT_ADDRESS = "local"
SHARED_SESSION = "default"
NODE_SOCKET = "node.sock"
TOKEN_FILE = "token"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment decides; arguments of `init` go before it."""

    address: str = DEFAULT_ADDRESS
    """`ACTORLITE_ADDRESS`: `inproc://`, `local`, `auto` or `scheme://...`."""
    loop: LoopName = "uvloop"
    """`ACTORLITE_LOOP`: the event loop of daemons and workers. The user's own loop is never chosen for him."""
    namespace: str = ""
    """`ACTORLITE_NAMESPACE`; empty means one of the session's own."""
    runtime_root: str = "/tmp"
    """The directory below which session directories live: `XDG_RUNTIME_DIR`, else `TMPDIR`, else `/tmp`."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings of this process's environment, or of `environ`. An empty variable counts as unset.

        Raises `ValueError` naming the variable for a value that cannot be used.
        """
        values = os.environ if environ is None else environ
        loop = values.get("ACTORLITE_LOOP") or "uvloop"
        if loop not in LOOPS:
            raise ValueError(f"ACTORLITE_LOOP={loop!r} is no event loop: it is one of {', '.join(LOOPS)}")
        return cls(
            address=values.get("ACTORLITE_ADDRESS") or DEFAULT_ADDRESS,
            loop=loop,
            namespace=values.get("ACTORLITE_NAMESPACE") or "",
            runtime_root=_runtime_root(values),
        )


def _runtime_root(values: Mapping[str, str]) -> str:
    xdg = values.get("XDG_RUNTIME_DIR") or ""
    # `sudo` and `su` leave the other user's directory in the variable: only our own counts.
    if os.path.isabs(xdg) and _owner(xdg) == os.getuid():
        return xdg
    temporary = values.get("TMPDIR") or ""
    return temporary if os.path.isabs(temporary) and os.path.isdir(temporary) else "/tmp"


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def records_call_sites(environ: Mapping[str, str] | None = None) -> bool:
    """`ACTORLITE_RECORD_CALL_SITES`: whether `al.memory()` shall say where values were put. Any text means yes."""
    return bool((os.environ if environ is None else environ).get("ACTORLITE_RECORD_CALL_SITES"))


def runtime_directory(settings: Settings | None = None) -> Path:
    """This user's directory for shared sessions. Not created here."""
    settings = settings or Settings.from_environment()
    return Path(settings.runtime_root) / f"actorlite-{os.getuid()}"


def shared_session_directory(settings: Settings | None = None) -> Path:
    """The session directory of the node daemon that `auto` attaches to. Not created here."""
    return runtime_directory(settings) / SHARED_SESSION


def node_address(session_directory: Path) -> str:
    """The address of the node daemon that uses this session directory."""
    return f"uds://{session_directory / NODE_SOCKET}"


def shared_node_address(settings: Settings | None = None) -> str:
    """The address that `auto` stands for."""
    return node_address(shared_session_directory(settings))


def session_directory_of(address: str) -> Path:
    """The session directory that belongs to a node's `uds://` address: where its token lies.

    Raises `ValueError` for another kind of address.
    """
    scheme, _, path = address.partition("://")
    if scheme != "uds" or not path.startswith("/"):
        raise ValueError(f"{address!r} is not the address of a node on this host: it is written uds:///directory/name")
    return Path(path).parent


def write_token(session_directory: Path, token: bytes) -> None:
    """Leave the token where `read_token` finds it; readable by this user only, and never seen half written."""
    path = session_directory / TOKEN_FILE
    partial = path.with_suffix(".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(token.hex())
    os.rename(partial, path)


def read_token(address: str) -> bytes:
    """The token of the node at `address` (`uds://...`).

    Raises `ConnectFailed` when there is none, which is to say no node, or when it may not be read or is not safe: its
    directory must be this user's alone, so that nobody else can have put a node there.
    """
    directory = session_directory_of(address)
    path = directory / TOKEN_FILE
    try:
        text = path.read_text(encoding="ascii")
        _check_private(directory)
        return bytes.fromhex(text)
    except FileNotFoundError:
        raise ConnectFailed(f"no node runs at {address}: start one with `actorlite start`") from None
    except (OSError, ValueError) as error:
        raise ConnectFailed(f"no token to attach to {address} with: {error}") from error


def prepare_private_directory(path: Path) -> Path:
    """Create `path` with mode 0700 where it is missing; its parent must exist.

    Raises `PermissionError` when it belongs to somebody else, is not a directory or can be entered by others: in a
    place like `/tmp` anybody may have made it first.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    _check_private(path)
    return path


def _check_private(path: Path) -> None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{path} is not a directory: remove it, or set TMPDIR to another place")
    if found.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to user {found.st_uid}, not to {os.getuid()}: set TMPDIR elsewhere")
    if found.st_mode & 0o077:
        raise PermissionError(f"{path} has mode {stat.S_IMODE(found.st_mode):04o}: others can enter; chmod 700 it")
