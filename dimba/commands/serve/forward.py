"""Requests that another server answers, which listens on a Unix socket."""

import http.client
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dimba.commands.serve.api_errors import ApiError
from dimba.commands.serve.model import Gone

PATHS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models"))
_PIECE = 1 << 16  # bytes


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, place: Path) -> None:
        super().__init__("localhost")
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._place))


@contextmanager
def forwarded(
    place: Path, method: str, path: str, body: bytes | None, is_gone: Callable[[], bool]
) -> Iterator[http.client.HTTPResponse]:
    """The other server's response; it stops answering when the block ends. Raises ApiError, Gone."""
    connection = _UnixConnection(place)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        while not select.select([connection.sock], [], [], 0.5)[0]:
            if is_gone():
                raise Gone
        yield connection.getresponse()
    except (http.client.HTTPException, ConnectionRefusedError, FileNotFoundError):
        raise ApiError(503, "the model's process has ended") from None
    finally:
        connection.close()


def pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it comes."""
    while piece := response.read1(_PIECE):
        yield piece
