"""Running a function in a short-lived child process with hard limits, so that a C library that crashes or hangs on a damaged file harms nothing."""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from weightspace.errors import FormatError, MissingDependencyError, one_line

SECONDS = 60
PATIENCE = 4.0  # seconds on the clock for each second of CPU time
MEMORY = 2 << 30  # bytes of address space: libraries map far more than they use
_REFUSED = 3  # the child's exit status when it says itself what is wrong
_MAX_COMPLAINT = 1 << 16
_CPU_SPENT = -getattr(signal, "SIGXCPU", 0) or None

Work = Callable[[Mapping[str, Any], BinaryIO], None]


def run(target: str, argument: Mapping[str, Any], *, subject: str, limit: int, seconds: int = SECONDS, memory: int = MEMORY) -> bytearray:
    """Run `module:function` in a child and return what it writes.

    The function gets the argument, which must be JSON, and a binary stream. It may raise FormatError and
    MissingDependencyError; both are raised here again.

    Args:
        target: where the function is, as `package.module:function`.
        argument: what it is called with.
        subject: what it reads, for messages.
        limit: bytes that it may write at most.
        seconds: CPU time; `PATIENCE` times as much may pass on the clock.
        memory: bytes of address space.

    Raises:
        FormatError: the child refused the file, crashed, ran too long, or wrote more than `limit` bytes.
    """
    # The child must find the same package, installed or not; everything else of its surroundings is left out.
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    order = json.dumps({"target": target, "argument": argument, "seconds": seconds, "memory": memory})
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            [sys.executable, "-P", "-B", "-m", "weightspace.containers.isolated"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
        )
        timer = threading.Timer(PATIENCE * seconds, child.kill)
        timer.start()
        try:
            written = _exchange(child, order.encode(), subject, limit)
            status = child.wait()
        finally:
            overtime = not timer.is_alive()
            timer.cancel()
            if child.poll() is None:
                child.kill()
                child.wait()
        complaints.seek(0)
        _judge(status, complaints.read(_MAX_COMPLAINT), subject, f"{seconds} s" if overtime or status == _CPU_SPENT else None)
    return written


def _exchange(child: "subprocess.Popen[bytes]", order: bytes, subject: str, limit: int) -> bytearray:
    """Hand the child its order and collect its output."""
    written = bytearray()
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        try:
            child.stdin.write(order)
            child.stdin.close()
        except BrokenPipeError:
            return written  # it died early; its status tells why
        while block := child.stdout.read(1 << 18):
            written += block
            if len(written) > limit:
                raise FormatError(
                    f"{subject}: its reader wrote more than the {limit} bytes expected", reason="crashed", advice="do not load this file"
                )
    return written


def _judge(status: int, complaint: bytes, subject: str, overtime: str | None) -> None:
    """Raise what a child's end means, if it is not success."""
    if status == 0:
        return
    if overtime:
        raise FormatError(
            f"{subject}: its reader was stopped after {overtime} of work",
            reason="crashed",
            advice="the file is damaged or made to hang readers",
        )
    text = complaint.decode("utf-8", "replace").strip()
    if status == _REFUSED and text:
        said = json.loads(text.splitlines()[-1])
        if said["kind"] == "missing":
            raise MissingDependencyError(said["detail"])
        raise FormatError(f"{subject}: {said['detail']}", reason=said["reason"], advice=said["advice"])
    last = one_line(text.splitlines()[-1], 200) if text else "no message"
    how = f"signal {-status}" if status < 0 else f"status {status}"
    raise FormatError(f"{subject}: its reader crashed with {how} ({last})", reason="crashed", advice="copy or download the file again")


def _limit(seconds: int, memory: int) -> None:
    """Bound this process, as far as the system can."""
    try:
        import resource
    except ImportError:
        return
    bounds = {"RLIMIT_CPU": seconds, "RLIMIT_AS": memory, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": _MAX_COMPLAINT}
    for name, bound in bounds.items():
        try:
            # A soft limit sends a signal that tells what happened, a hard one kills without a word.
            resource.setrlimit(getattr(resource, name), (bound, bound + 5 if name == "RLIMIT_CPU" else bound))
        except (AttributeError, OSError, ValueError):
            continue


def _child() -> int:
    """Be the child: read the order, work inside the limits, report a refusal as one line of JSON."""
    order = json.loads(sys.stdin.buffer.read())
    _limit(order["seconds"], order["memory"])
    module, _, function = order["target"].partition(":")
    try:
        work: Work = getattr(importlib.import_module(module), function)
        work(order["argument"], sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except MissingDependencyError as error:
        said = {"kind": "missing", "detail": str(error)}
    except FormatError as error:
        said = {"kind": "format", "detail": error.detail, "reason": error.reason, "advice": error.advice}
    except MemoryError:
        said = {
            "kind": "format",
            "detail": f"reading it takes more than {order['memory']} bytes of memory",
            "reason": "crashed",
            "advice": "do not load this file",
        }
    except Exception as error:
        detail = f"damaged ({type(error).__name__}: {one_line(str(error), 300)})"
        said = {"kind": "format", "detail": detail, "reason": "corrupt", "advice": "copy or download it again"}
    else:
        return 0
    sys.stderr.write(f"\n{json.dumps(said)}\n")
    return _REFUSED


if __name__ == "__main__":
    sys.exit(_child())
