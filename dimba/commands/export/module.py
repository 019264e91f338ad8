"""`dimba.trainers.export` where the trainer runs, with the model, its base and its GPUs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_place import place_of
from dimba.jobs.model_source import ModelSource
from dimba.jobs.module_call import call_module
from dimba.plan.model import Mount
from dimba.plan.mounts import same_place

_ENDPOINT = "HF_ENDPOINT"


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
    room = place_of(
        source, "export", reporter, mounts=mounts, writable=writable, variables=variables, computes=needs_gpus
    )
    with room as place:
        at = place.with_environment(_endpoint())
        module, what = "dimba.trainers.export", "the export"
        return call_module(module, request, at, source.context, reporter, what=what)


def _endpoint() -> dict[str, str]:
    """The address of another Hub than the usual one; no secret, which the output would mask."""
    return {_ENDPOINT: os.environ[_ENDPOINT]} if os.environ.get(_ENDPOINT) else {}


def read_only(*places: Path) -> tuple[Mount, ...]:
    """Mounts to read from, at the same paths inside."""
    return tuple(same_place(each, read_only=True) for each in places)
