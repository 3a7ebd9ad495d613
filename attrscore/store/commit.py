"""Files that exist whole or not at all, even when the process is killed or the disk is full."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrscore.errors import StoreError

__all__ = ["aside_of", "commit", "leftovers", "make_folder", "remove_leftovers", "sync"]

DAY = 86_400.0
_HOST = re.sub(r"[^\w-]", "_", socket.gethostname()) or "host"
_LEFTOVER = re.compile(r"^\..+\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.tmp$")
_ONE_AT_A_TIME = threading.Lock()  # threads of a process share the names of their temporary files


def commit(path: Path, data: bytes | bytearray | memoryview, /) -> None:
    """Put ``data`` at ``path`` in one step: written aside, synced, renamed, the folder synced.

    :raises StoreError: disk full, not writable; what was at ``path`` before is untouched.
    """
    with _ONE_AT_A_TIME, aside_of(path) as aside:
        _write_synced(aside, memoryview(data))


@contextmanager
def aside_of(path: Path, /) -> Iterator[Path]:
    """Where to write what is to stand at ``path``: it is put there when the block is left, and
    removed if the block raises. What is written must be synced.

    :raises StoreError: disk full, not writable; what was at ``path`` before is untouched.
    """  # noqa: D205  # one sentence
    aside = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")
    _remove(aside)  # from a dead process that had our pid
    try:
        yield aside
        aside.replace(path)
        _sync_folder(path.parent)
    except StoreError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _remove(aside)


def sync(path: Path, /) -> None:
    """Have what was written to a file reach the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leftovers(folder: Path, /) -> list[Path]:
    """Temporary files that nobody will finish: of dead processes of this host, or a day old."""
    try:
        return sorted(path for path in folder.iterdir() if _is_leftover(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_leftovers(folders: Iterable[Path], /) -> int:
    """Delete the leftovers of these folders; how many there were."""
    with _ONE_AT_A_TIME:
        found = [path for folder in folders for path in leftovers(folder)]
        for path in found:
            _remove(path)
    return len(found)


def make_folder(folder: Path, /) -> None:
    """The folder, with its parents.

    :raises StoreError: not writable, or a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write_synced(path: Path, data: memoryview) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def _is_leftover(path: Path) -> bool:
    found = _LEFTOVER.match(path.name)
    if found is None:
        return False
    if found["host"] == _HOST:
        pid = int(found["pid"])
        # A file of our own pid is an ancestor's: in containers, pids come again after a restart.
        if pid == os.getpid() or not _alive(pid):
            return True
    try:
        return time.time() - path.stat().st_mtime > DAY
    except FileNotFoundError:
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # a read-only folder: it holds no file of ours, or the error is on its way already


def _unwritable(path: Path, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "The disk (or quota) is full; free some space and run the same command again."
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "The folder is not writable; choose another with results=..."
    else:
        remedy = "Run the same command again; it computes only what is missing."
    return StoreError(
        f"Cannot write {path} ({error.strerror or error}). {remedy} Parts written before are whole."
    )
