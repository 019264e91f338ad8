"""The HTTP server: one thread per connection, on 127.0.0.1 alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from dimba.commands.serve.handler import Handler
from dimba.commands.serve.model import ServedModel

ADDRESS = "127.0.0.1"
_MOST_CONNECTIONS = 128

Log = Callable[[str], None]


class Server(ThreadingHTTPServer):
    """Listens on a port of 127.0.0.1 from its creation on; raises OSError if that is busy."""

    daemon_threads = True
    request_queue_size = _MOST_CONNECTIONS

    def __init__(self, port: int, model: ServedModel, log: Log, key: str = "") -> None:
        self.model, self.log, self.key = model, log, key
        self._connections = threading.Semaphore(_MOST_CONNECTIONS)
        super().__init__((ADDRESS, port), Handler)

    @property
    def url(self) -> str:
        """The base URL that clients are given."""
        return f"http://{ADDRESS}:{self.server_port}/v1"

    def server_bind(self) -> None:
        """Binds without the look-up of a host name that the standard library makes."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, and closes it at once if there are too many."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers the requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is no error."""

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Accepts connections until the end of the block, and closes the port then."""
        accepting = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        accepting.start()
        try:
            yield self
        finally:
            self.model.ended.set()
            self.shutdown()
            self.server_close()
