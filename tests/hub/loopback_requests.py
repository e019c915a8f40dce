"""One HTTP request to the loopback hub: who asks, what stands in its body, and how it is answered."""

import dataclasses
import hmac
import io
import json
import re
import shutil
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.loopback_store import HubError, Json, Repo, Store

CHUNK = 1 << 20
Twist = Callable[[bytes, bytes], bytes]
"""What becomes of an answer that was made as it should be, head and body, before it goes out; then the connection is closed."""


@dataclass(frozen=True)
class Settings:
    """How a loopback hub behaves.

    Attributes:
        user: who every accepted token belongs to.
        token: the one token accepted; None accepts any, and none.
        lfs_threshold: bytes above which a text file goes to large-file storage.
        multipart: bytes of one part of a large upload; 0 takes every upload in one piece.
        secret: signs the upload addresses.
        sent: what was handed out of files, (path asked for, bytes), in order.
        fault: what goes wrong with a request (method, path): an error to answer with, how many bytes of a file to send before hanging up,
            or what becomes of the answer.
    """

    user: str = "me"
    token: str | None = None
    lfs_threshold: int = 10 << 20
    multipart: int = 0
    secret: bytes = field(default_factory=lambda: uuid.uuid4().bytes)
    sent: list[tuple[str, int]] = field(default_factory=list)
    fault: Callable[[str, str], "HubError | int | Twist | None"] = lambda method, path: None


class Request(BaseHTTPRequestHandler):
    """Plumbing that every endpoint shares."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
    rbufsize = CHUNK

    store: ClassVar[Store]
    settings: ClassVar[Settings]
    routes: ClassVar[list[tuple[str, re.Pattern[str], Callable[..., None]]]]

    query: dict[str, list[str]]
    consumed: bool
    cut: int | None

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: these requests are a test's own."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the request's body, announced by length or chunked."""
        self.consumed = True
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while length := int(self.rfile.readline().split(b";")[0].strip() or b"0", 16):
                yield from self._exactly(length)
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b"\n", b""):
                pass
        else:
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            data = self.rfile.read(min(CHUNK, length))
            if not data:
                raise HubError(400, "truncated body")
            length -= len(data)
            yield data

    def body(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Json:
        try:
            read: Json = json.loads(self.body() or b"{}")
        except ValueError:
            raise HubError(400, "malformed JSON") from None
        return read

    def asked(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def claims(self, name: str) -> bool:
        return self.asked(name).lower() in ("true", "1")

    def answer(self, status: int, value: Any = None, headers: Mapping[str, str] | None = None, *, type: str = "application/json") -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.begin(status, {"Content-Type": type, "Content-Length": str(len(data)), "X-Request-Id": uuid.uuid4().hex, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(data)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_file(self, path: Path, headers: Mapping[str, str]) -> None:
        """Answer with a file, or with the range of it that was asked for."""
        size = path.stat().st_size
        start, stop, status, extra = 0, size, 200, {}
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        if found and (found[1] or found[2]):
            start = int(found[1]) if found[1] else max(0, size - int(found[2]))
            stop = min(int(found[2]) + 1, size) if found[1] and found[2] else size
            if start >= stop:
                raise HubError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
            status, extra = 206, {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        described = {"Content-Type": "application/octet-stream", "Content-Length": str(stop - start), "Accept-Ranges": "bytes"}
        self.begin(status, {**described, **extra, **headers})
        if self.command == "HEAD":
            return
        self.settings.sent.append((urlsplit(self.path).path, stop - start))
        with path.open("rb") as stream:
            stream.seek(start)
            if self.cut is not None:
                self.wfile.write(stream.read(min(self.cut, stop - start)))
                self.close_connection = True
                return
            if stop == size:
                shutil.copyfileobj(stream, self.wfile, CHUNK)
            else:
                self.wfile.write(stream.read(stop - start))

    @property
    def base(self) -> str:
        return f"http://{self.headers.get('Host')}"

    def user(self) -> str | None:
        """Who asks; None for a stranger, an error for a wrong token."""
        given = self.headers.get("Authorization", "")
        token = given.removeprefix("Bearer ") if given.startswith("Bearer ") else None
        if self.settings.token and token is not None and not hmac.compare_digest(token, self.settings.token):
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.settings.user if token or not self.settings.token else None

    def known_user(self) -> str:
        user = self.user()
        if user is None:
            raise HubError(401, "Authentication required")
        return user

    def readable(self, repo: Repo) -> Repo:
        if self.store.meta(repo).get("private") and self.user() is None:
            raise HubError(401, "Repository not found", "RepoNotFound")
        return repo

    def dispatch(self) -> None:
        self.consumed = False
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.cut = None
        try:
            fault = self.settings.fault(self.command, parts.path)
            if isinstance(fault, HubError):
                raise fault
            if callable(fault):
                self.twisted(fault)
                return
            self.cut = fault
            self.user()
            for methods, pattern, endpoint in self.routes:
                found = pattern.fullmatch(parts.path) if self.command in methods.split() else None
                if found:
                    endpoint(self, **_arguments(found))
                    return
            raise HubError(404, f"no such endpoint {self.command} {parts.path}")
        except HubError as error:
            headers = {"X-Error-Message": error.message, **({"X-Error-Code": error.code} if error.code else {}), **error.headers}
            if not self.consumed:  # a body left unread would be taken for the next request
                headers["Connection"] = "close"
                self.close_connection = True
            self.answer(error.status, {"error": error.message, **error.body}, headers)
        except ConnectionError:
            self.close_connection = True
        except Exception as error:
            self.close_connection = True
            traceback.print_exc()
            self.answer(500, {"error": repr(error)}, {"Connection": "close"})

    def twisted(self, twist: Twist) -> None:
        """Do what is asked, and answer otherwise."""
        wire, self.wfile = self.wfile, io.BytesIO()
        faultless, self.settings = self.settings, dataclasses.replace(self.settings, fault=lambda method, path: None)  # type: ignore[misc]
        try:
            self.dispatch()
            head, _, body = self.wfile.getvalue().partition(b"\r\n\r\n")
        finally:
            self.wfile, self.settings = wire, faultless  # type: ignore[misc]
            self.close_connection = True
        self.wfile.write(twist(head + b"\r\n\r\n", body))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = dispatch


def _arguments(found: re.Match[str]) -> dict[str, Any]:
    """The parts of an address as an endpoint takes them: kind and name of a repository become a `Repo`."""
    values: dict[str, Any] = {name: unquote(value) for name, value in found.groupdict().items() if value is not None}
    kind = values.pop("kind", "models").removesuffix("s")
    if "name" in values:
        return {**{key: value for key, value in values.items() if key != "name"}, "repo": Repo(kind, values["name"])}
    return {**values, "kind": kind} if "kind" in found.re.groupindex else values
