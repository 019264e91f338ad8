"""Serves a model until it is interrupted, or the model's process ends."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from dimba.commands.serve.engines import loaded
from dimba.commands.serve.http import ADDRESS, Server
from dimba.commands.serve.model import ServedModel
from dimba.common.errors import BadInput, HostCannot
from dimba.common.inference import TRANSFORMERS
from dimba.host.ports import free_port, holder_of
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_source import ModelRequest, find_model

_CHECK = 1.0  # seconds


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """The command line's part."""

    model: str
    port: int = 8000
    engine: str = TRANSFORMERS
    key_variable: str | None = None
    where: ModelRequest = field(default_factory=ModelRequest)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the model answers, and under which name."""

    url: str
    model: str


def serve(request: ServeRequest, reporter: Reporter, on_ready: Callable[[Address], None]) -> None:
    """Serves until KeyboardInterrupt; the port is taken before the model is loaded.

    Raises:
        RunFailed: the model's process has ended.
        HostCannot: the port is busy, or GPUs do not work.
    """
    key = _key(request.key_variable)
    source = find_model(request.model, request.where, reporter)
    if refusal := source.family.served:
        raise BadInput(f"{source.name} {refusal.problem}", refusal.hint)
    model = ServedModel(source.name)
    with (
        _server(request.port, model, reporter, key).running() as server,
        loaded(request.engine, source, model, reporter) as session,
    ):
        on_ready(Address(url=server.url, model=source.name))
        while not model.ended.wait(_CHECK):
            pass
        raise session.failure()


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    if not os.environ.get(variable):
        raise BadInput(f"the environment variable {variable} is empty or not set", f"export {variable}=…")
    return os.environ[variable]


def _server(port: int, model: ServedModel, reporter: Reporter, key: str) -> Server:
    try:
        return Server(port, model, reporter.note, key)
    except PermissionError:
        raise HostCannot(f"port {port} is for root alone", "give another one: `--port 8000`") from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise HostCannot(f"port {port}: {error.strerror}", "give another one with `--port`") from None
    holder = f": {found} listens on it" if (found := holder_of(port)) else ""
    raise HostCannot(f"port {port} is busy{holder}", f"give another one, such as `--port {free_port(ADDRESS)}`")
