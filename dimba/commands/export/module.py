"""`dimba.trainers.export` where the trainer runs: a request goes there as JSON, and lines of JSON come back."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimba.common.errors import DimbaError, RunFailed, from_json
from dimba.common.json_lines import event_in
from dimba.jobs.lifecycle import Reporter, interrupted, signals
from dimba.jobs.model_place import place_of
from dimba.jobs.model_source import ModelSource
from dimba.jobs.place import last_lines, supervised_command
from dimba.plan.model import Mount
from dimba.plan.mounts import same_place
from dimba.spec.secrets import mask_secrets

_ENDPOINT = "HF_ENDPOINT"


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


def call(
    source: ModelSource,
    request: Mapping[str, Any],
    reporter: Reporter,
    *,
    mounts: tuple[Mount, ...] = (),
    writable: tuple[Path, ...] = (),
    variables: tuple[str, ...] = (),
    needs_gpus: bool = True,
) -> dict[str, Any]:
    """The result of one request, with the model's GPUs leased meanwhile.

    `variables` of this process are passed on as secrets, over stdin, and open the network.

    Raises:
        DimbaError: as the module found it, or RunFailed with its last lines.
    """
    listener = _Listener(reporter)
    command = supervised_command(source.facts, "dimba.trainers.export", json.dumps(dict(request)))
    room = place_of(
        source, "export", reporter, mounts=mounts, writable=writable, variables=variables, computes=needs_gpus
    )
    with room as place, signals(interrupted):
        try:
            done = source.runner.run_once(command, place.with_environment(_endpoint()), listener)
        finally:
            reporter.ended()
    if listener.error:
        raise listener.error
    if listener.result is None:
        output = mask_secrets(last_lines("\n".join(listener.noise)), tuple((place.secrets or {}).values()))
        raise RunFailed(
            f"the export ended with status {done.exit_code}:\n{output}", "`dimba doctor` checks this machine"
        )
    return listener.result


def _endpoint() -> dict[str, str]:
    """The address of another Hub than the usual one; no secret, which the output would mask."""
    return {_ENDPOINT: os.environ[_ENDPOINT]} if os.environ.get(_ENDPOINT) else {}


def read_only(*places: Path) -> tuple[Mount, ...]:
    """Mounts to read from, at the same paths inside."""
    return tuple(same_place(each, read_only=True) for each in places)
