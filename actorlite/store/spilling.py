"""Where a node's store writes objects when its memory is full: a directory, or a URL that fsspec knows.

Everything here blocks; several threads may use a target at once. An object is one file, a header and then its bytes,
and is read only by the node that wrote it. What is read is what was written, or it raises `SpillError`: every byte of a
file is covered by a check, and a file has its name only when it is whole.
What a killed node left in a directory is removed by the next that opens it. At a URL nobody can tell whether a node
lives: what a killed one left stays there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import struct
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Protocol

logger = logging.getLogger("actorlite.store")

PREFIX = "actorlite-spill-"
LOCK = "lock"
PART = ".part"
MAGIC = b"alspill\n"
VERSION = 1
HEADER = struct.Struct("<8sIIQ")
"""Magic, version, CRC-32 and size of the data. There is no padding: it would be the one place without a check."""
CHUNK_BYTES = 256 * 1024
"""What is read and checked at a time: it is still in the processor's cache for the second look. Reading 64 MiB so is
1.4 to 1.7 times as fast as reading all of it first; writing gains a tenth at most, and goes without."""
MAX_NAME = 128
ATTEMPTS = 100

CHANGE_PLACE = "set object_spilling_directory= to another place"
REMEDIES = {
    errno.ENOSPC: f"free space or {CHANGE_PLACE}",
    errno.EDQUOT: f"free space, ask for a larger quota, or {CHANGE_PLACE}",
    errno.EFBIG: f"raise `ulimit -f` or {CHANGE_PLACE}",
    errno.EACCES: f"make it writable for the user who runs the node or {CHANGE_PLACE}",
    errno.EPERM: f"make it writable for the user who runs the node or {CHANGE_PLACE}",
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENOLCK: f"mount it so that files can be locked or {CHANGE_PLACE}",
    errno.ENOSYS: f"mount it so that files can be locked or {CHANGE_PLACE}",
    errno.EOPNOTSUPP: f"mount it so that files can be locked or {CHANGE_PLACE}",
}


class SpillError(Exception):
    """An object could not be written, or not be read back; says where, why, and what to do about it."""

    def __init__(self, place: str, reason: str, remedy: str) -> None:
        super().__init__(place, reason, remedy)
        self.place = place
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}; {self.remedy}"


class SpillTarget(Protocol):
    """One node's place for objects. Blocks; for several threads at once."""

    def write(self, key: str, data: memoryview) -> str:
        """Returns the object's location, of no other object ever. It is whole when this returns and survives a crash of
        the process, not one of the machine.

        Raises `SpillError`, and leaves nothing behind then. The data must not change meanwhile.
        """
        ...

    def read(self, location: str, into: memoryview) -> None:
        """Fill `into`, which is as long as the object.

        Raises `SpillError` when the object is gone, torn, changed, or of another size; `into` holds anything then.
        """
        ...

    def delete(self, location: str) -> None:
        """A missing object is no error, and one that cannot be deleted is logged."""
        ...

    def close(self) -> None:
        """Delete everything of this node. Idempotent; what cannot be deleted is logged. Ends no call of another thread,
        but no write succeeds any more."""
        ...


def open_target(where: str, node: str) -> SpillTarget:
    """A node's own place in the directory, or at the URL, `where`.

    In a directory, removes what nodes left that are dead. Raises `SpillError` when `where` cannot be made or written.
    """
    name = PREFIX + _safe(node)
    return _open_url(where, name) if "://" in where else _open_directory(where, name)


class DirectoryTarget:
    """A `SpillTarget`: files in a subdirectory of this node's own. Made by `open_target`."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._numbers = itertools.count()
        # For what changes the directory: closing sees all of it.
        self._names = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"<DirectoryTarget {self._claim.path}{', closed' if self._closed else ''}>"

    def write(self, key: str, data: memoryview) -> str:
        data = data.cast("B")
        path = f"{self._claim.path}/{_safe(key)}.{next(self._numbers)}"
        part = path + PART
        try:
            self._write_part(part, data)
            with self._names:
                self._check_open()
                os.rename(part, path)
        except BaseException as error:
            with self._names, contextlib.suppress(OSError):
                # A directory of this name may be another target's when we are closed.
                if not self._closed:
                    os.unlink(part)
            if isinstance(error, OSError):
                raise _explain(error, path, len(data)) from error
            raise
        return path

    def read(self, location: str, into: memoryview) -> None:
        try:
            fd = os.open(location, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _read_object(lambda part: os.readv(fd, (part,)), into.cast("B"), location)
            finally:
                os.close(fd)
        except FileNotFoundError as error:
            raise _gone(location) from error
        except OSError as error:
            raise _explain(error, location) from error

    def delete(self, location: str) -> None:
        try:
            os.unlink(location)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("cannot delete a spilled object: %s", error)

    def close(self) -> None:
        with self._names:
            if self._closed:
                return
            self._closed = True
        self._claim.remove()

    def _write_part(self, path: str, data: memoryview) -> None:
        header = _header(data)
        with self._names:
            self._check_open()
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, memoryview(header))
            _write_all(fd, data)
        finally:
            # Over a network this may be when a full disk is noticed.
            os.close(fd)

    def _check_open(self) -> None:
        if self._closed:
            raise _closed(self._claim.path)


class Claim:
    """A node's subdirectory, which nobody but the holder of this removes anything from.

    That is whoever holds the lock of the file *that has the name now*: an unlinked one protects nothing. A process that
    is forked from the holder, without exec, holds it too.
    """

    def __init__(self, path: str, directory: int, lock: int) -> None:
        self.path = path
        self._directory = directory
        self._lock = lock

    @classmethod
    def take(cls, path: str) -> Claim | None:
        """None when somebody else has it or is removing it. Raises `OSError` when that cannot be known."""
        with contextlib.ExitStack() as opened:
            try:
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                opened.callback(os.close, directory)
                # Without a lock file it is half made or half removed: then whoever comes first may have it.
                lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
                opened.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(lock), os.stat(LOCK, dir_fd=directory, follow_symlinks=False)):
                    return None
            except (BlockingIOError, FileNotFoundError):
                return None
            opened.pop_all()
            return cls(path, directory, lock)

    def remove(self) -> None:
        """Remove the subdirectory and give up the claim; what cannot be removed is logged."""
        try:
            # By descriptor: what has the directory's name by now may be another's. The lock goes last: it is ours until
            # there is nothing more to protect.
            for name in sorted(os.listdir(self._directory), key=lambda name: name == LOCK):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._directory)
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("cannot remove all of %s: %s", self.path, error)
        finally:
            os.close(self._lock)
            os.close(self._directory)


def _open_directory(where: str, name: str) -> DirectoryTarget:
    where = os.path.abspath(where)
    try:
        os.makedirs(where, exist_ok=True)
        _remove_left_over(where)
        return DirectoryTarget(_make_own(where, name))
    except (FileExistsError, NotADirectoryError) as error:
        raise SpillError(where, "it is not a directory", CHANGE_PLACE) from error
    except OSError as error:
        raise _explain(error, where) from error


def _remove_left_over(where: str) -> None:
    for name in os.listdir(where):
        if name.startswith(PREFIX):
            path = f"{where}/{name}"
            try:
                dead = Claim.take(path)
            except PermissionError:
                # Another user's, who cleans up himself.
                continue
            except OSError as error:
                logger.warning("cannot tell whether %s was left by a dead node: %s", path, error)
                continue
            if dead is not None:
                logger.info("removing %s, which a dead node left", path)
                dead.remove()


def _make_own(where: str, name: str) -> Claim:
    """The subdirectory gets its name when its lock is held: nobody sees one of that name that seems to be a dead
    node's. Under its first name it may seem so to a node that starts at the same time; then another is made."""
    path = f"{where}/{name}"
    for _ in range(ATTEMPTS):
        first = f"{path}.{os.urandom(8).hex()}"
        os.mkdir(first, 0o700)
        try:
            claim = Claim.take(first)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(f"{first}/{LOCK}")
            with contextlib.suppress(OSError):
                os.rmdir(first)
            raise
        if claim is None:
            continue
        try:
            os.rename(first, path)
        except OSError as error:
            claim.remove()
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EPERM):
                reason = "it belongs to a living node, or to another user"
                raise SpillError(path, reason, f"name each node differently or {CHANGE_PLACE}") from error
            raise
        claim.path = path
        return claim
    raise SpillError(path, "other nodes keep removing it", CHANGE_PLACE)


class File(Protocol):
    """What we use of fsspec's files."""

    def __enter__(self) -> File: ...
    def __exit__(self, *exc_info: object) -> object: ...
    def read(self, size: int) -> bytes: ...
    def write(self, data: memoryview | bytes) -> object: ...


class FileSystem(Protocol):
    """What we use of fsspec's file systems."""

    def open(self, path: str, mode: str) -> File: ...
    def makedirs(self, path: str, exist_ok: bool) -> None: ...
    def rm_file(self, path: str) -> None: ...
    def rm(self, path: str, recursive: bool) -> None: ...
    def invalidate_cache(self) -> None: ...


class UrlTarget:
    """A `SpillTarget`: objects under a prefix of this node's own, at a URL. Made by `open_target`."""

    def __init__(self, files: FileSystem, directory: str, url: str) -> None:
        self._files = files
        self._directory = directory
        self._url = url
        self._numbers = itertools.count()
        self._closed = False

    def __repr__(self) -> str:
        return f"<UrlTarget {self._url}{', closed' if self._closed else ''}>"

    def write(self, key: str, data: memoryview) -> str:
        data = data.cast("B")
        location = f"{self._url}/{_safe(key)}.{next(self._numbers)}"
        self._check_open()
        try:
            with self._files.open(self._path(location), "wb") as file:
                file.write(_header(data))
                for start in range(0, len(data), CHUNK_BYTES):
                    file.write(data[start : start + CHUNK_BYTES])
            # Closing deletes what it finds, and did not find this one when it began before.
            self._check_open()
        except BaseException as error:
            self.delete(location)
            if isinstance(error, SpillError) or not isinstance(error, Exception):
                raise
            raise _explain(error, location, len(data)) from error
        return location

    def read(self, location: str, into: memoryview) -> None:
        try:
            with self._files.open(self._path(location), "rb") as file:

                def fill(part: memoryview) -> int:
                    got = file.read(len(part))
                    part[: len(got)] = got
                    return len(got)

                _read_object(fill, into.cast("B"), location)
        except SpillError:
            raise
        except FileNotFoundError as error:
            raise _gone(location) from error
        except Exception as error:
            raise _explain(error, location) from error

    def delete(self, location: str) -> None:
        try:
            self._files.rm_file(self._path(location))
        except FileNotFoundError:
            pass
        except Exception as error:
            logger.warning("cannot delete the spilled object %s: %s", location, _words(error))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            # It lists what there is, and may remember an older answer.
            self._files.invalidate_cache()
            self._files.rm(self._directory, recursive=True)
        except FileNotFoundError:
            pass
        except Exception as error:
            logger.warning("cannot delete the spilled objects at %s: %s", self._url, _words(error))

    def _path(self, location: str) -> str:
        return f"{self._directory}/{location.rpartition('/')[2]}"

    def _check_open(self) -> None:
        if self._closed:
            raise _closed(self._url)


def _open_url(where: str, name: str) -> UrlTarget:
    try:
        url_to_fs: Callable[[str], tuple[FileSystem, str]] = import_module("fsspec.core").url_to_fs
    except ImportError as error:
        remedy = "install it with: pip install 'actorlite[spill]'"
        raise SpillError(where, f"spilling to a URL needs fsspec ({error})", remedy) from error
    try:
        files, directory = url_to_fs(where)
        directory = f"{directory.rstrip('/')}/{name}"
        if directory.startswith("/"):
            # A tree of directories. Elsewhere there are buckets: to make one is not what a misspelt name asks for.
            files.makedirs(directory, exist_ok=True)
    except ImportError as error:
        raise SpillError(where, str(error), f"install what is missing or {CHANGE_PLACE}") from error
    except Exception as error:
        raise _explain(error, where) from error
    target = UrlTarget(files, directory, f"{where.rstrip('/')}/{name}")
    target.delete(target.write("probe", memoryview(b"")))
    return target


def _header(data: memoryview) -> bytes:
    # Of the standard library's checksums the fastest that lets other threads run. MiB/s for 64 MiB here: crc32 2040,
    # adler32 1690, sha1 1080, blake2b 920. Imported when the first object is spilled, which most nodes never do.
    from zlib import crc32

    return HEADER.pack(MAGIC, VERSION, crc32(data), len(data))


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        written = os.write(fd, data)
        if not written:
            raise OSError(errno.EIO, "nothing more was written")
        data = data[written:]


def _read_object(fill: Callable[[memoryview], int], into: memoryview, location: str) -> None:
    """`fill` fills the beginning of what it is given, and says how much; nothing at the end."""
    from zlib import crc32

    def fill_all(view: memoryview) -> None:
        while view:
            count = fill(view)
            if not count:
                raise _lost(location, "the file is torn, it ends early")
            view = view[count:]

    header = bytearray(HEADER.size)
    fill_all(memoryview(header))
    magic, version, checksum, size = HEADER.unpack(header)
    if magic != MAGIC or version != VERSION:
        raise _lost(location, "the file is not what this node wrote, its header is wrong")
    if size != len(into):
        raise _lost(location, f"it holds {size} bytes, not the {len(into)} of the object")
    found = 0
    for start in range(0, size, CHUNK_BYTES):
        chunk = into[start : start + CHUNK_BYTES]
        fill_all(chunk)
        found = crc32(chunk, found)
    if found != checksum:
        raise _lost(location, "the file is damaged, its checksum is wrong")
    if fill(memoryview(bytearray(1))):
        raise _lost(location, f"the file is longer than the {size} bytes of the object")


def _safe(name: str) -> str:
    return "".join(each if each.isascii() and each.isalnum() or each in "-_" else "_" for each in name[:MAX_NAME])


def _explain(error: Exception, place: str, needed: int = 0) -> SpillError:
    code = error.errno if isinstance(error, OSError) else None
    wanted = f": {needed} bytes needed" if needed else ""
    match code:
        case errno.ENOSPC:
            reason = f"disk full{wanted}{_free(place)}"
        case errno.EDQUOT:
            reason = f"disk quota exceeded{wanted}"
        case errno.EFBIG:
            reason = f"a file may not have that many bytes here{wanted}"
        case _:
            reason = _words(error)
    return SpillError(place, reason, REMEDIES.get(code or 0, f"check that it exists and works, or {CHANGE_PLACE}"))


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _free(place: str) -> str:
    try:
        found = os.statvfs(os.path.dirname(place))
    except OSError:
        return ""
    return f", {found.f_bavail * found.f_frsize} bytes free"


def _gone(location: str) -> SpillError:
    return SpillError(location, "the spilled object is gone", f"keep others from cleaning up there or {CHANGE_PLACE}")


def _lost(location: str, reason: str) -> SpillError:
    return SpillError(location, reason, f"the spilled object is lost: check the disk or {CHANGE_PLACE}")


def _closed(place: str) -> SpillError:
    return SpillError(place, "nothing can be spilled any more", "the node is ending")
