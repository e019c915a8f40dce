"""The child process: what it returns, and that no crash, hang, flood or hunger of its own reaches us."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest

from weightspace.containers import isolated
from weightspace.errors import FormatError, MissingDependencyError

MODULE = """
import os, signal, sys, time
from weightspace.errors import FormatError, MissingDependencyError
def echo(argument, out): out.write(repr(argument).encode())
def modules(argument, out): out.write(",".join(sys.modules).encode())
def refuse(argument, out): raise FormatError("made of cheese", reason="hostile", advice="eat it")
def lack(argument, out): raise MissingDependencyError.of("cheese", "eating", "food")
def fail(argument, out): raise OSError("no such\\nluck")
def crash(argument, out): out.write(b"half"); out.flush(); os.kill(os.getpid(), signal.SIGSEGV)
def leave(argument, out): sys.stderr.write("last words\\n"); os._exit(7)
def hang(argument, out): time.sleep(60)
def spin(argument, out):
    while True: pass
def eat(argument, out): bytearray(8 << 30)
def flood(argument, out):
    while True: out.write(bytes(1 << 16))
def scribble(argument, out): open(argument["path"], "wb").write(bytes(1 << 20))
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("module")
    (folder / "child_work.py").write_text(MODULE)
    return str(folder)


@pytest.fixture(autouse=True)
def _importable(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The child's path is the package's folder alone; the test's module is put behind it.
    plain = subprocess.Popen

    def with_path(command: Any, **options: Any) -> Any:
        options["env"]["PYTHONPATH"] += os.pathsep + target
        return plain(command, **options)

    monkeypatch.setattr(subprocess, "Popen", with_path)


def call(function: str, argument: Mapping[str, Any] | None = None, **options: Any) -> bytearray:
    return isolated.run(f"child_work:{function}", argument or {}, subject="the file", **{"limit": 1 << 20, "seconds": 20, **options})


def test_the_child_returns_what_the_function_writes() -> None:
    assert call("echo", {"path": "ä", "numbers": [1, 2]}) == "{'path': 'ä', 'numbers': [1, 2]}".encode()


def test_the_child_imports_nothing_heavy() -> None:
    loaded = call("modules").decode().split(",")
    assert not {"torch", "numpy", "h5py", "pytest", "beartype"} & set(loaded)


def test_refusals_cross_the_border_whole() -> None:
    with pytest.raises(FormatError, match=r"^the file: made of cheese; eat it$") as caught:
        call("refuse")
    assert (caught.value.reason, caught.value.advice) == ("hostile", "eat it")
    with pytest.raises(MissingDependencyError, match="eating needs the package 'cheese'"):
        call("lack")
    with pytest.raises(FormatError, match=r"the file: damaged \(OSError: no such\\nluck\)"):
        call("fail")


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        ("crash", {}, f"crashed with signal {int(signal.SIGSEGV)}"),
        ("leave", {}, r"crashed with status 7 \(last words\)"),
        ("spin", {"seconds": 1}, "was stopped after 1 s of work"),
        ("hang", {"seconds": 1}, "was stopped after 1 s of work"),
        ("eat", {"memory": 1 << 30}, "takes more than 1073741824 bytes of memory"),
        ("flood", {"limit": 1000}, "wrote more than the 1000 bytes expected"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="limits differ elsewhere")
def test_whatever_becomes_of_the_child_is_one_clear_error(
    function: str, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "PATIENCE", 0.3 if function == "hang" else 4.0)
    begun = time.monotonic()
    with pytest.raises(FormatError, match=f"the file: .*{says}") as caught:
        call(function, **options)
    assert caught.value.reason == "crashed" and time.monotonic() - begun < 20


def test_the_child_cannot_write_files(tmp_path: Any) -> None:
    with pytest.raises(FormatError):
        call("scribble", {"path": str(tmp_path / "written")})
    assert (tmp_path / "written").stat().st_size <= 1 << 16
