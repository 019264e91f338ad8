"""The one model of a server: loading, ready or ended. It answers one request at a time, in the order they come."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from dimba.commands.serve.api_errors import ApiError
from dimba.commands.serve.requests import Request
from dimba.common.errors import BadInput, DimbaError
from dimba.common.inference import END, STOPPED, TEXT, Answer, Prompt, Sampling
from dimba.common.until import Until

OnPart = Callable[[str, str], None]  # (kind, text)
IsGone = Callable[[], bool]

_MOST_WAITING = 32  # requests
_POLL = 0.5  # seconds


class Session(Protocol):
    """What answers: a `ModelSession`."""

    def ask(self, prompt: Prompt, sampling: Sampling, on_part: OnPart, model: int = 0) -> Answer:
        """The answer to a prompt, whose parts go to `on_part` as they come."""

    def stop(self) -> None:
        """Ends the answer that is being generated."""


class Gone(Exception):
    """The client has closed the connection."""


@dataclass
class ServedModel:
    """A model under one name; `ended` is set once its process has ended, or the server ends."""

    name: str
    session: Session | None = None
    backend: Path | None = None  # the Unix socket of a server that answers in place of the session
    ended: threading.Event = field(default_factory=threading.Event)
    _turn: threading.Condition = field(default_factory=threading.Condition)
    _queue: deque[object] = field(default_factory=deque)

    @property
    def state(self) -> str:
        """`loading`, `ok` or `ended`."""
        if self.ended.is_set():
            return "ended"
        return "ok" if self.session or self.backend else "loading"

    def answer(self, request: Request, on_part: OnPart, is_gone: IsGone) -> Answer:
        """The answer; raises ApiError, or Gone once nothing waits for it any more."""
        with self._turn_of(is_gone):
            session = self._ready()
            try:
                return _until_stop(session, request, on_part, is_gone)
            except BadInput as error:
                raise ApiError.of(error) from None
            except DimbaError:
                raise ApiError(503, "the model's process has ended") from None

    def _ready(self) -> Session:
        self.check_state()
        assert self.session is not None, "without a backend"
        return self.session

    def check_state(self) -> None:
        """Raises ApiError unless the model answers."""
        if self.state != "ok":
            raise ApiError(503, "the model is loading" if self.state == "loading" else "the model's process has ended")

    @contextmanager
    def _turn_of(self, is_gone: IsGone) -> Iterator[None]:
        ticket = object()
        with self._turn:
            self._ready()
            if len(self._queue) > _MOST_WAITING:
                raise ApiError(429, f"{_MOST_WAITING} requests are waiting", code="rate_limit_exceeded")
            self._queue.append(ticket)
        try:
            with self._turn:
                while self._queue[0] is not ticket:
                    self._turn.wait(_POLL)
                    if is_gone():
                        raise Gone
            yield
        finally:
            with self._turn:
                self._queue.remove(ticket)
                self._turn.notify_all()


def _until_stop(session: Session, request: Request, on_part: OnPart, is_gone: IsGone) -> Answer:
    """The answer up to the first stop word; generation ends there, and where the client is gone."""
    text, is_stopped = Until(request.stop), False

    def pass_on(kind: str, part: str) -> None:
        nonlocal is_stopped
        ready = text.feed(part) if kind == TEXT else part
        if ready and not is_stopped:
            on_part(kind, ready)
        if not is_stopped and (text.found or is_gone()):
            is_stopped = True
            session.stop()

    answer = session.ask(request.prompt, request.sampling, pass_on)
    if text.found:
        return replace(answer, text=text.passed, finish=END)
    if is_stopped or answer.finish == STOPPED:
        raise Gone
    if rest := text.rest():
        on_part(TEXT, rest)
    return answer
