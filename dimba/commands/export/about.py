"""What an export records of its origin: run, base, data, settings and results, without a path of this machine."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dimba import __version__
from dimba.common.contract import is_path
from dimba.jobs.model_source import ModelSource
from dimba.records import RunFolder, RunRecord
from dimba.spec import JobSpec

_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/")
_SETTINGS = ("learning_rate", "epochs", "max_steps", "batch_size", "grad_accumulation_steps", "max_length", "seed")
_RESULTS = {"loss": "training loss", "reward": "reward", "accuracy": "accuracy of pairs", "margin": "margin"}
_EVAL = {"eval_loss": "validation loss"}
_METRICS = {**_RESULTS, **_EVAL}


def about(source: ModelSource, hub: str | None) -> dict[str, Any]:
    """The origin of an export of `source`."""
    record = source.record
    found = {"dimba": __version__, "base": _base(source), "title": _title(source, hub), "hub": hub}
    if record is None or source.run is None:
        return found
    revision = f"{record.git_revision}{' with changes' if record.git_dirty else ''}" if record.git_revision else None
    return found | {
        "mode": record.mode,
        "method": record.method,
        "run": {"id": record.id, "revision": revision},
        "data": list(_data(source.run, record)),
        "settings": dict(_settings(source.spec, record)),
        "results": dict(_results(source.run, record)),
    }


def public_name(reference: str) -> str:
    """The name of a model or of data as others may see it: an id on the Hub, else the last part of a path."""
    if cached := _CACHED.search(reference):
        return f"{cached[1]}/{cached[2]}"
    return Path(reference).name if is_path(reference) else reference


def _title(source: ModelSource, hub: str | None) -> str:
    return hub.partition("/")[2] if hub else source.record.name if source.record else source.folder.name


def _base(source: ModelSource) -> dict[str, Any]:
    reference = source.facts.checkpoint.reference if source.trained.is_adapter or source.record else source.folder.name
    return {"name": public_name(reference), "hash": source.record.base_hash if source.record else None}


def _data(run: RunFolder, record: RunRecord) -> Iterator[dict[str, Any]]:
    data = run.plan().get("data")
    found: Mapping[str, Any] = data if isinstance(data, dict) else {}
    sources = found.get("sources") or [found]
    for each in sources:
        if isinstance(each, dict) and isinstance(name := each.get("reference"), str):
            yield {"name": public_name(name), "hash": record.data_hash if len(sources) == 1 else None}


def _settings(spec: JobSpec, record: RunRecord) -> Iterator[tuple[str, Any]]:
    for name in _SETTINGS:
        if (value := getattr(spec.training, name, None)) is not None:
            yield name, value
    if record.effective_batch:
        yield "effective batch", record.effective_batch
    if record.method != "full":
        lora = spec.lora.model_dump(exclude_defaults=True)
        yield from (("LoRA r", spec.lora.r), ("LoRA alpha", spec.lora.alpha))
        yield from ((f"LoRA {name}", value) for name, value in lora.items() if name not in ("r", "alpha"))
    yield from ((name, value) for name, value in record.packages.items() if name in ("transformers", "peft", "trl"))


def _results(run: RunFolder, record: RunRecord) -> Iterator[tuple[str, Any]]:
    lines = [line for number in range(1, len(record.attempts) + 1) for line in run.metrics(number)]
    for name, label in _METRICS.items():
        values = [(line.get("step"), line[name]) for line in lines if isinstance(line.get(name), int | float)]
        if values:
            first, last = values[0], values[-1]
            started = f"{first[1]:.4g} at step {first[0]}, " if len(values) > 1 else ""
            yield label, f"{started}{last[1]:.4g} at step {last[0]}"
    if record.learned is not None:
        yield "learned", "yes" if record.learned else f"no: {record.learning_problem}"
