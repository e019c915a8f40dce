"""A proxy on this machine that hands requests on to a server, and answers otherwise where a test says so."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.faults.columns import Fault
from tests.hub.loopback_store import HubError
from tests.hub.server import LoopbackServer

_HOP = ("connection", "transfer-encoding", "content-length", "date", "server")


@contextmanager
def proxy(port: int, fault: Callable[[str, str], Fault | None]) -> Iterator[str]:
    """Stand before a server of this machine; yields the address to ask instead.

    Args:
        port: of the server.
        fault: what goes wrong with a request (method, path).
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: these requests are a test's own."""

        def handed_on(self) -> None:
            wrong = fault(self.command, self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if isinstance(wrong, HubError):
                self._say(wrong.status, list(wrong.headers.items()), b"<Error><Code>Trouble</Code><Message>not now</Message></Error>", None)
                return
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            length = answer.headers.get("Content-Length")
            self._say(answer.status, answer.getheaders(), answer.read(), wrong, length if self.command == "HEAD" else None)
            upstream.close()

        def _say(
            self,
            status: int,
            headers: list[tuple[str, str]],
            body: bytes,
            wrong: Callable[[bytes, bytes], bytes] | None,
            length: str | None = None,
        ) -> None:
            said = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'odd')}"]
            said += [f"{name}: {value}" for name, value in headers if name.lower() not in _HOP]
            said += [f"Content-Length: {length or len(body)}", "Connection: close"]
            head = "\r\n".join(said).encode("latin-1") + b"\r\n\r\n"
            self.close_connection = True
            body = b"" if self.command == "HEAD" else body
            self.wfile.write(head + body if wrong is None else wrong(head, body))

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handed_on

    server = LoopbackServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


__all__ = ["proxy"]
