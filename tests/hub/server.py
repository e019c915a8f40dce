"""A server of loopback that does not complain of clients who hang up, as they do when their disk is full."""

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """Whatever else goes wrong in a handler is printed."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


__all__ = ["LoopbackServer"]
