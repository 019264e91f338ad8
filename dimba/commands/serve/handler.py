"""The requests of one connection: callers of this machine alone, errors in OpenAI's form."""

from __future__ import annotations

import hmac
import json
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dimba.commands.serve.api_errors import ApiError
from dimba.commands.serve.forward import PATHS, forwarded, pieces
from dimba.commands.serve.model import Gone
from dimba.commands.serve.requests import Request, read_chat, read_completion, read_json
from dimba.commands.serve.responses import END_OF_EVENTS, Response, event
from dimba.common.errors import printable
from dimba.common.inference import Answer

if TYPE_CHECKING:
    from dimba.commands.serve.http import Server

_MOST_BYTES = 16 << 20  # of a request's body
_LOCAL = frozenset(("127.0.0.1", "localhost", "::1"))
_GONE = 499  # as nginx logs it
_READERS = {"/v1/chat/completions": read_chat, "/v1/completions": read_completion}


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    server: Server
    protocol_version = default_request_version = "HTTP/1.1"
    server_version, sys_version = "dimba", ""
    timeout = 60  # seconds without a byte
    _status = 0

    def do_GET(self) -> None:
        """Answers health and models."""
        self._answered(self._get)

    def do_POST(self) -> None:
        """Answers chats and completions."""
        self._answered(self._post)

    def _answered(self, answer: Callable[[str], str]) -> None:
        """Runs `answer`, sends a refusal in its place, and logs one line without anything of the request's body."""
        started, note = time.monotonic(), ""
        path = self.path.partition("?")[0].rstrip("/")
        try:
            self._check_caller()
            note = answer(path)
        except ApiError as error:
            note = error.param or ("" if error.status in (400, 404, 405) else error.message)
            self._refuse(error)
        except (Gone, OSError):
            self._status, note, self.close_connection = _GONE, "the client has gone", True
        if path != "/health":
            seconds = f"{time.monotonic() - started:.1f} s"
            parts = filter(None, (f"{self.command} {path[:200]} {self._status}", note, seconds))
            self.server.log(printable(", ".join(parts)))

    def _check_caller(self) -> None:
        """Refuses pages of the web, which reach this address through a browser, and callers without the key."""
        origin = self.headers.get("Origin")
        if _host_of(f"//{self.headers.get('Host', '')}") not in _LOCAL:
            raise ApiError(403, "the Host header does not name this machine")
        if origin is not None and _host_of(origin) not in _LOCAL:
            raise ApiError(403, "requests from web pages of other hosts are not answered")
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        is_open = not self.server.key or self.path == "/health"
        if not is_open and not hmac.compare_digest(given, self.server.key.encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def _get(self, path: str) -> str:
        model = self.server.model
        known = {"id": model.name, "object": "model", "created": 0, "owned_by": "dimba"}
        if path == "/health":
            self._send(200 if model.state == "ok" else 503, {"status": model.state, "model": model.name})
        elif model.backend and path == "/v1/models":
            self._forward(model.backend, path, None)
        elif path == "/v1/models":
            self._send(200, {"object": "list", "data": [known]})
        elif path == f"/v1/models/{model.name}":
            self._send(200, known)
        else:
            raise _unknown(path, "GET")
        return ""

    def _post(self, path: str) -> str:
        model = self.server.model
        if model.backend and path in PATHS:
            self._forward(model.backend, path, self._body())
            return ""
        if path not in _READERS:
            raise _unknown(path, "POST")
        model.check_state()
        request = _READERS[path](read_json(self._body()), self.server.model.name)
        response = Response(model=self.server.model.name, is_chat=request.is_chat)
        answer = self._stream(request, response) if request.stream else self._complete(request, response)
        return f"{answer.prompt_tokens} + {answer.tokens} tokens"

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length")
        if length is None or not length.isdecimal():
            self.close_connection = True
            raise ApiError(411, "the header Content-Length is missing")
        if int(length) > _MOST_BYTES:
            raise ApiError(413, f"the body is larger than {_MOST_BYTES >> 20} MiB")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Gone
        return body

    def _complete(self, request: Request, response: Response) -> Answer:
        answer = self.server.model.answer(request, lambda *_: None, self._is_gone)
        self._send(200, response.complete(answer))
        return answer

    def _forward(self, backend: Path, path: str, body: bytes | None) -> None:
        self.server.model.check_state()
        with forwarded(backend, self.command, path, body, self._is_gone) as response:
            self.send_response(response.status)
            self.send_header("Content-Type", response.getheader("Content-Type", "application/json"))
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in pieces(response):
                self._send_chunk(piece)
            self._send_chunk(b"")

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _stream(self, request: Request, response: Response) -> Answer:
        stream = _EventStream(self)

        def part(kind: str, text: str) -> None:
            stream.begin(response)
            stream.send(event(response.part(kind, text)))

        try:
            answer = self.server.model.answer(request, part, lambda: stream.is_broken or self._is_gone())
        except ApiError as error:
            if not stream.has_begun:
                raise
            stream.send(event(error.as_json()))
            raise Gone from None
        stream.begin(response)
        for chunk in response.end(answer, has_usage=request.has_usage_chunk):
            stream.send(event(chunk))
        stream.send(END_OF_EVENTS)
        stream.send(b"")
        return answer

    def _is_gone(self) -> bool:
        """Whether the client has closed the connection: it is readable, and there is nothing to read."""
        with suppress(OSError):
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        return True

    def _send(self, status: int, value: Mapping[str, Any]) -> None:
        body = json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, error: ApiError) -> None:
        # The rest of the request may not have been read, and must not be taken for the next one.
        self.close_connection = True
        with suppress(OSError):
            self._send(error.status, error.as_json())
            self._drain()

    def _drain(self) -> None:
        """Reads what the client still sends, for a moment: a reset connection could lose the refusal."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        ends = time.monotonic() + 2
        while self.connection.recv(1 << 16) and time.monotonic() < ends:
            pass

    def send_response(self, code: int, message: str | None = None) -> None:
        """Sends the status line, which the log repeats."""
        self._status = code
        super().send_response(code, message)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuses what is no request in OpenAI's form too."""
        self.path = getattr(self, "path", "")
        self._refuse(ApiError(int(code), message or self.responses.get(code, ("error",))[0]))

    def log_message(self, format: str, *args: Any) -> None:  # the name is the standard library's
        """Logs nothing: `_answered` does."""


class _EventStream:
    """A response of server-sent events in HTTP chunks; the status line goes out with the first part."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.has_begun = self.is_broken = False

    def begin(self, response: Response) -> None:
        """Sends the headers and the first chunks, once."""
        if self.has_begun:
            return
        self.has_begun = True
        self._handler.send_response(200)
        for name, value in (("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")):
            self._handler.send_header(name, value)
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()
        for chunk in response.begin():
            self.send(event(chunk))

    def send(self, data: bytes) -> None:
        """Sends one chunk of HTTP; an empty one ends the response."""
        try:
            self._handler._send_chunk(data)
        except OSError:  # `is_broken` stops the model; its session reads the rest
            self.is_broken = True


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _unknown(path: str, method: str) -> ApiError:
    known = sorted((*_READERS, "/health", "/v1/models"))
    if path in known:
        return ApiError(405, f"{path} does not take {method}")
    return ApiError(404, f"{path[:100]} does not exist; this server has {', '.join(known)}")
