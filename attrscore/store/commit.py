"""Files and folders that exist whole or not at all, even when a process is killed or the disk full.

This is the one way in which attrscore writes what must last: parts, merged files, exports, figures,
weights. It is written aside, synced, renamed, and the folder synced.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrscore.errors import StoreError

DAY = 86_400.0
BEAT, SILENCE = 15.0, 90.0
"""Seconds between two signs of life, and after how many without one a process is taken for gone."""
_HOST = re.sub(r"[^\w-]", "_", socket.gethostname()) or "host"
_LEFTOVER = re.compile(r"^\.(?P<name>.+?)(\.\d+)?\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.tmp$")
_NUMBER = itertools.count(1)
_BEING_WRITTEN: set[str] = set()
"""Names of temporary files of this process."""


def commit(path: Path, data: bytes | bytearray | memoryview, /) -> None:
    """Put ``data`` at ``path`` in one step; its folder must be there.

    :raises StoreError: disk full, not writable; what was at ``path`` before is untouched.
    """
    with _aside(path) as aside:
        _write(aside, memoryview(data))
        aside.replace(path)


@contextmanager
def new_file(path: Path, /) -> Iterator[Path]:
    """Where to write what is to stand at ``path``: it is put there when the block ends.

    Its folder is made, and leftovers are removed from it.

    :raises StoreError: disk full, not writable; what was at ``path`` before is untouched.
    """
    make_folder(path.parent)
    remove_leftovers([path.parent])
    with _aside(path) as aside:
        yield aside
        _sync(aside)
        aside.replace(path)


@contextmanager
def new_folder(path: Path, /) -> Iterator[Path]:
    """As :func:`new_file`, for a folder; one that was there is replaced at the end."""
    make_folder(path.parent)
    remove_leftovers([path.parent])
    with _aside(path) as aside, _aside(path) as old:
        yield aside
        for folder, _, names in os.walk(aside):
            for name in names:
                _sync(Path(folder, name))
        if path.exists():
            path.rename(old)
        aside.rename(path)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that nobody uses; whatever is there at the end is removed."""
    aside = path.with_name(f".{path.name}.{next(_NUMBER)}.{_HOST}.{os.getpid()}.tmp")
    _BEING_WRITTEN.add(aside.name)
    _remove(aside)  # from a dead process that had our pid
    try:
        yield aside
        _sync(path.parent)
    except StoreError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _remove(aside)
        _BEING_WRITTEN.discard(aside.name)


@contextmanager
def heartbeat(path: Path, /) -> Iterator[None]:
    """While the block runs, show that this process is making ``path``.

    A temporary file beside it says so, touched every 15 seconds; without effect where it cannot be
    written.
    """
    aside = path.with_name(f".{path.name}.{next(_NUMBER)}.{_HOST}.{os.getpid()}.tmp")
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):
                os.utime(aside)

    _BEING_WRITTEN.add(aside.name)
    with suppress(OSError):
        aside.touch()
    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        _remove(aside)
        _BEING_WRITTEN.discard(aside.name)


def beats(folder: Path, /) -> dict[str, bool]:
    """What is being made in a folder, by name -> whether its process lives, as far as is known."""
    found: dict[str, bool] = {}
    try:
        names = [each.name for each in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return found
    for name in names:
        if match := _LEFTOVER.match(name):
            lives = not _is_leftover(folder / name)
            if lives and match["host"] != _HOST:
                with suppress(OSError):
                    lives = time.time() - (folder / name).stat().st_mtime < SILENCE
            found[match["name"]] = lives or found.get(match["name"], False)
    return found


def leftovers(folder: Path, /) -> list[Path]:
    """Temporary files that nobody will finish: of dead processes of this host, or a day old."""
    try:
        return sorted(path for path in folder.iterdir() if _is_leftover(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_leftovers(folders: Iterable[Path], /) -> int:
    """Delete the leftovers of these folders; how many there were."""
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


def unreadable(path: Path, error: Exception, what: str, remedy: str, /) -> StoreError:
    """What to say of a file that ``error`` kept from being read.

    Where the system does not give its bytes, it says why; else its bytes are wrong, which
    ``what`` ("is damaged ...") and ``remedy`` say.
    """
    refused = error if isinstance(error, OSError) and error.errno else _refused(path)
    if refused is None:
        return StoreError(f"{path} {what} ({_first_line(error)}); {remedy}", kind="damaged")
    why = _NOT_READ.get(refused.errno or 0, "Try again, or look at the disk.")
    sentence = f"{path} cannot be read ({refused.strerror or refused}). {why}"
    return StoreError(f"{sentence} Nothing says that it is damaged.", kind="unreadable")


_NOT_READ = {
    errno.EACCES: "You need the right to read it.",
    errno.EPERM: "You need the right to read it.",
    errno.EMFILE: "This process has too many files open; raise the limit: ulimit -n 4096.",
    errno.ENFILE: "The system has too many files open.",
    errno.EIO: "The disk or file server failed; try again.",
    errno.ESTALE: "The file server was restarted; try again.",
}


def _refused(path: Path) -> OSError | None:
    """Why the system does not give the bytes of a file."""
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        return error
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _write(path: Path, data: memoryview) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Have what was written to a file or folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
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
        if path.name in _BEING_WRITTEN:
            return False
        # Another of our own pid is an ancestor's: in containers, pids come again after a restart.
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
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
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
