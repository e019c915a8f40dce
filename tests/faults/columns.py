"""What goes wrong between a client and a hub: the columns of the fault matrix."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.hub.loopback_requests import Twist
from tests.hub.loopback_store import HubError

Fault = HubError | Twist
STALL = 1.6  # seconds for which a slow server says nothing


@dataclass(frozen=True)
class Column:
    """One kind of trouble.

    Attributes:
        name: of the column.
        fault: made anew for each request.
        is_passing: whether a client may hope that it is over when it asks again.
    """

    name: str
    fault: Callable[[str], Fault]
    is_passing: bool = False


def cut_before(head: bytes, body: bytes) -> bytes:
    return b""


def cut_in_the_middle(head: bytes, body: bytes) -> bytes:
    return head + body[: len(body) // 2] if body else head[: len(head) // 2]


def slow(head: bytes, body: bytes) -> bytes:
    threading.Event().wait(STALL)  # time.sleep is not waited for in these tests
    return head + body


def html(head: bytes, body: bytes) -> bytes:
    page = b"<!doctype html><html><script>alert(1)</script>Sign in to the hotel's network</html>"
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page) + page


def with_header(head: bytes, name: bytes, value: bytes) -> bytes:
    lines = [line for line in head.rstrip(b"\r\n").split(b"\r\n") if not line.lower().startswith(name.lower() + b":")]
    return b"\r\n".join([*lines, name + b": " + value]) + b"\r\n\r\n"


def short_length(head: bytes, body: bytes) -> bytes:
    return with_header(head, b"Content-Length", b"%d" % (len(body) // 2)) + body


def long_length(head: bytes, body: bytes) -> bytes:
    return with_header(head, b"Content-Length", b"%d" % (len(body) + 100)) + body


def endless_length(head: bytes, body: bytes) -> bytes:
    return with_header(head, b"Content-Length", b"%d" % (1 << 43)) + body


def other_range(head: bytes, body: bytes) -> bytes:
    return with_header(head, b"Content-Range", b"bytes 7-77/1000") + body


def other_bytes(head: bytes, body: bytes) -> bytes:
    return head + bytes(one ^ 0x55 for one in body)


def stale_etag(head: bytes, body: bytes) -> bytes:
    return with_header(with_header(head, b"ETag", b'"' + b"0" * 64 + b'"'), b"X-Linked-ETag", b'"' + b"0" * 64 + b'"') + body


def status(number: int, **headers: str) -> Callable[[str], Fault]:
    return lambda path: HubError(number, "not now", headers={name.replace("_", "-"): value for name, value in headers.items()})


def redirect(to: str | None) -> Callable[[str], Fault]:
    return lambda path: HubError(302, "elsewhere", headers={"Location": path if to is None else to})


def twist(one: Twist) -> Callable[[str], Fault]:
    return lambda path: one


COLUMNS = [
    Column("cut before the answer", twist(cut_before), True),
    Column("cut in the middle", twist(cut_in_the_middle), True),
    Column("slow", twist(slow), True),
    Column("HTML", twist(html)),
    Column("Content-Length too small", twist(short_length)),
    Column("Content-Length too large", twist(long_length), True),
    Column("Content-Length of terabytes", twist(endless_length)),
    Column("another range", twist(other_range)),
    Column("other bytes", twist(other_bytes)),
    Column("stale ETag", twist(stale_etag)),
    *(Column(str(number), status(number)) for number in (400, 401, 403, 404, 409, 412)),
    Column("429", status(429), True),
    Column("429, Retry-After: 7", status(429, Retry_After="7"), True),
    Column("429, Retry-After: years", status(429, Retry_After="9" * 12), True),
    Column("429, Retry-After: nonsense", status(429, Retry_After="\u00b2 soon"), True),
    Column("429, Retry-After: a date", status(429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"), True),
    Column("429, RateLimit: days", status(429, RateLimit='"api";r=0;t=999999'), True),
    *(Column(str(number), status(number), True) for number in (500, 502, 503, 504)),
    Column("503, Retry-After: 3", status(503, Retry_After="3"), True),
    Column("redirect loop", redirect(None)),
    Column("redirect to a file", redirect("file:///etc/passwd")),
    Column("redirect to another host", redirect("http://127.0.0.2:9/elsewhere")),
    Column("redirect to nonsense", redirect("http://[::/\x7f")),
]

__all__ = ["COLUMNS", "STALL", "Column", "Fault"]
