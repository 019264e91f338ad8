"""A module of the trainers' side where it runs: a request goes there as JSON, and lines of JSON come back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dimba.common.errors import DimbaError, RunFailed, from_json
from dimba.common.json_lines import event_in
from dimba.jobs.context import JobContext
from dimba.jobs.lifecycle import Reporter, interrupted, signals
from dimba.jobs.place import last_lines, supervised_command
from dimba.runners.protocol import OneShot
from dimba.spec.secrets import mask_secrets


@dataclass
class _Listener:
    """Receives the lines; those that are no JSON of ours come from libraries."""

    reporter: Reporter
    result: dict[str, Any] | None = None
    error: DimbaError | None = None
    noise: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        event = event_in(line)
        if event is None:
            self.noise.append(line.rstrip())
            return
        kind, value = event
        if kind == "progress":
            self.reporter.progress(*value)
        elif kind == "note":
            self.reporter.note(str(value))
        elif kind == "result":
            self.result = value
        elif kind == "error":
            self.error = from_json(value)


def call_module(
    module: str,
    request: Mapping[str, Any],
    place: OneShot,
    context: JobContext,
    reporter: Reporter,
    *,
    what: str,
) -> dict[str, Any]:
    """The result of one request; `what` names the work in the error of a module that ends without one.

    Raises:
        DimbaError: as the module found it, or RunFailed with its last lines.
    """
    listener = _Listener(reporter)
    command = supervised_command(context.facts, module, json.dumps(dict(request)))
    with signals(interrupted):
        try:
            done = context.runner.run_once(command, place, listener)
        finally:
            reporter.ended()
    if listener.error:
        raise listener.error
    if listener.result is None:
        output = mask_secrets(last_lines("\n".join(listener.noise)), tuple((place.secrets or {}).values()))
        raise RunFailed(f"{what} ended with status {done.exit_code}:\n{output}", "`dimba doctor` checks this machine")
    return listener.result
