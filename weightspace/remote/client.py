"""The Hub client's session within bounds: how long it waits, how much of an answer it takes, and when it asks again."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from weightspace.errors import FormatError

Result = TypeVar("Result")

PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before asking again where the server does not say
RETRIED = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0  # seconds before asking again, whatever the server says
CONNECT, QUIET, COMMIT = 10.0, 30.0, 300.0  # seconds: to be let in, without a word, and without a word about what was sent
ANSWER_BYTES = 64 << 20  # of an answer that is no file; one about a repository of 100,000 files has 20 MB
_LOCK = threading.Lock()


def bounded() -> None:
    """See that the session which the client shares keeps the bounds of this file; its own waits for ever and takes any answer."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    with _LOCK:
        before = _http._GLOBAL_CLIENT_FACTORY
        if not isinstance(before, _Factory):
            set_client_factory(_Factory(before))


class _Factory:
    """Makes sessions as they were made before, with bounds."""

    def __init__(self, before: Callable[[], Any]) -> None:
        self.before = before

    def __call__(self) -> Any:
        made = self.before()
        hooks = made.event_hooks
        made.event_hooks = {"request": [*hooks["request"], _ask], "response": [*hooks["response"], _check]}
        return made


def _ask(request: Any) -> None:
    """Give a request its time, and ask for what the bounds can be kept of: something small may unpack to anything."""
    quiet = QUIET if request.method in ("GET", "HEAD") else COMMIT
    given = request.extensions.get("timeout") or {}
    bounds = {"connect": CONNECT, "read": quiet, "write": quiet, "pool": None}
    request.extensions["timeout"] = {key: bound if given.get(key) is None else given[key] for key, bound in bounds.items()}
    if _is_talk(request):
        request.headers["Accept-Encoding"] = "identity"


def _check(response: Any) -> None:
    """Bound an answer that is no file, and the time that it asks for."""
    for name in ("Retry-After", "RateLimit"):  # the client waits as long as these say in some of its calls
        if name in response.headers and wait_of(response, 0.0) > LONGEST_WAIT:
            response.headers[name] = str(int(LONGEST_WAIT)) if name == "Retry-After" else f'"api";r=0;t={int(LONGEST_WAIT)}'
    if response.is_success and not _is_talk(response.request):
        return
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _broken("a packed answer that nobody asked for")
    said = response.headers.get("Content-Length", "")
    if said.isascii() and said.isdigit() and int(said[:20]) > ANSWER_BYTES:
        raise _broken(f"an answer of more than {ANSWER_BYTES} bytes")
    response.stream = _counted(response.stream)


def _is_talk(request: Any) -> bool:
    """Whether a request, or the one that was redirected to it, is about files and not for one."""
    path = request.url.path
    request.extensions["talk"] = request.extensions.get("talk") or path.startswith("/api/") or "/info/lfs/" in path
    return bool(request.extensions["talk"])


def _counted(stream: Any) -> Any:
    """The same stream, which breaks where an answer gets too long."""
    import httpx2

    class Counted(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            got = 0
            for block in stream:
                got += len(block)
                if got > ANSWER_BYTES:
                    raise _broken(f"an answer of more than {ANSWER_BYTES} bytes")
                yield block

        def close(self) -> None:
            stream.close()

    return Counted()


def _broken(what: str) -> Exception:
    """What the client raises for an answer that keeps no rules; asking again would not help."""
    import httpx2

    error: Exception = httpx2.DecodingError(what)
    return error


def retried(call: Callable[[], Result]) -> Result:
    """Ask again after 408, 429 and 5xx, as long as the server says to wait, a few times; once after a lost connection; never after a refusal."""
    lost = 0
    for pause in (*PAUSES, None):
        bounded()
        try:
            return call()
        except Exception as error:
            status = status_of(error)
            lost += status is None
            if pause is None or not (is_passing(error) and lost < 2):
                raise
            pause_for(error, pause)
    raise AssertionError  # the last turn returns or raises


def is_passing(error: Exception) -> bool:
    """Whether asking again may help: the server is busy or in trouble, or the connection broke."""
    import httpx2

    if cause_of(error) is not error or _is_before_upload(error):
        return False  # of an upload, which the client has tried several times itself
    status = status_of(error)
    return status in RETRIED if status is not None else isinstance(error, httpx2.TransportError) and not is_misled(error)


def _is_before_upload(error: Exception) -> bool:
    """Whether it is about a question that comes before an upload: what is to be sent, and where to."""
    request = getattr(getattr(error, "response", None), "request", None)
    return request is not None and request.method == "POST" and ("/preupload/" in request.url.path or "/info/lfs/" in request.url.path)


def is_misled(error: Exception) -> bool:
    """Whether something was to be asked that cannot be asked over the network, such as a redirect to a file of this machine."""
    import httpx2

    return isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError)


def cause_of(error: Exception) -> Exception:
    """What went wrong, where the client has wrapped it into an error that does not say."""
    return error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error


def status_of(error: Exception) -> int | None:
    """The status that an error of the client is about."""
    found: int | None = getattr(getattr(cause_of(error), "response", None), "status_code", None)
    return found


def pause_for(error: Exception, otherwise: float) -> None:
    """Wait as long as the server says, or as given, and never very long."""
    time.sleep(min(wait_of(getattr(error, "response", None), otherwise), LONGEST_WAIT))


def wait_of(response: Any, otherwise: float) -> float:
    """Seconds that the server wants us to wait; a time of day counts from the server's own clock, since ours may be wrong."""
    headers = getattr(response, "headers", {})
    said, now = headers.get("Retry-After", "").strip(), headers.get("Date", "")
    if said.isascii() and said.isdigit():
        return float(said[:9])
    until, since = _time(said), _time(now)
    if until is None or since is None:
        limit = headers.get("RateLimit", "").replace(" ", "").rpartition(";t=")[2]
        return float(limit[:9]) if limit.isascii() and limit.isdigit() else otherwise
    return max((until - since).total_seconds(), 0.0)


def _time(said: str) -> datetime | None:
    try:
        return parsedate_to_datetime(said).replace(tzinfo=None)
    except (ValueError, TypeError, OverflowError):
        return None


def local_refusal(where: str, error: OSError) -> FormatError:
    """What went wrong on this machine while something was brought here."""
    return FormatError(
        f"{where}: cannot be written ({error.strerror or error})",
        reason="unreadable",
        advice="check the folder, its permissions and the free space",
    )


__all__ = [
    "LONGEST_WAIT",
    "PAUSES",
    "RETRIED",
    "bounded",
    "cause_of",
    "is_misled",
    "is_passing",
    "local_refusal",
    "pause_for",
    "retried",
    "status_of",
    "wait_of",
]
