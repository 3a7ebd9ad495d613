"""Reading files that cannot be trusted in a process of its own, for ``verify``.

HDF5 is C: a forged or damaged file can crash or hang what reads it. The child has a limit on its
memory, says which file it is at, and is killed when it says nothing for too long.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrscore.errors import AttrscoreError, StoreError

__all__ = ["ChildError", "Say", "run_in_child"]

Say = Callable[[Mapping[str, Any]], None]
"""What the child calls to say where it is."""

GIB = 2**30

STARTING = 60.0
"""Seconds in which an interpreter has started, on the slowest disk."""

_STARTED = {"started": True}
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # Arrow's own allocator holds 1 GiB of addresses from the start, which no limit would count.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
_START = (
    "from attrscore.store.child import serve; from attrscore.store.verify import check_files; "
    "serve(check_files)"
)


class ChildError(StoreError):
    """The child was stopped, or stopped itself; ``how`` says which."""

    def __init__(self, sentence: str, how: str) -> None:
        super().__init__(sentence)
        self.how = how


def run_in_child(
    arguments: Mapping[str, Any],
    /,
    *,
    seconds: float = 60.0,
    memory: int = 2 * GIB,
) -> Iterator[dict[str, Any]]:
    """What checking files says, as it says it.

    ``seconds`` is the longest silence, ``memory`` what the child may take beyond what it starts
    with.

    :raises ChildError: it crashed, hung or needed too much memory.
    :raises StoreError: what was raised there.
    """
    sent = json.dumps({"arguments": dict(arguments), "memory": memory})
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603  # this interpreter, fixed code
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **_ENVIRONMENT},
        ) as child,
    ):
        try:
            yield from _said(child, sent.encode(), seconds)
            if child.wait(seconds) != 0:
                errors.seek(0)
                raise _stopped(child.returncode, errors.read())
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise ChildError(f"no progress for {seconds:g} seconds", "hangs") from error
        finally:
            child.kill()


def _said(child: subprocess.Popen[bytes], sent: bytes, seconds: float) -> Iterator[dict[str, Any]]:
    if child.stdin is None or child.stdout is None:
        raise StoreError("The process that reads files could not be started.")
    with suppress(BrokenPipeError), child.stdin:
        child.stdin.write(sent)
    for line in _lines(child.stdout.fileno(), seconds):
        said: dict[str, Any] = json.loads(line)
        if said == _STARTED:
            continue
        if "error" in said:
            raise StoreError(said["error"])
        yield said


def _lines(descriptor: int, seconds: float) -> Iterator[bytes]:
    held = b""
    deadline = time.monotonic() + max(seconds, STARTING)
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        deadline = time.monotonic() + seconds
        *whole, held = (held + data).split(b"\n")
        yield from whole


def _stopped(code: int, errors: bytes) -> ChildError:
    text = errors.strip().rpartition(b"\n")[2].decode("utf-8", "replace")
    if "MemoryError" in text or "allocate" in text.lower():
        return ChildError(f"the process needed too much memory ({text})", "memory")
    if code < 0:
        return ChildError(f"the process was stopped by signal {-code}", "crashes")
    return ChildError(f"the process stopped ({text})", "crashes")


def serve(task: Callable[..., None], /) -> None:
    """The child: run ``task``, with the arguments given on standard input."""
    given = json.loads(sys.stdin.buffer.read())
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")

    def say(what: Mapping[str, Any]) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    memory = int(given["memory"])
    _limit(memory)
    say(_STARTED)
    try:
        task(say, **given["arguments"])
    except AttrscoreError as error:
        if _exhausted(memory):
            raise MemoryError("nearly all was taken") from error
        say({"error": str(error)})


def _limit(memory: int) -> None:
    """No more address space than there is already and ``memory``."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _exhausted(memory: int) -> bool:
    """Whether hardly any memory was left: HDF5 then calls files damaged that are whole."""
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text()
        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        return int(status.partition("VmPeak:")[2].split()[0]) * 1024 > most - memory // 8
    return False
