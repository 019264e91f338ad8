"""Compares a run that is resumed with its record: whatever changes the losses must be as it was."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dimba import __version__
from dimba.common.errors import BadInput
from dimba.host.facts import CheckpointFacts, DataFacts
from dimba.host.hub import commit_of
from dimba.host.packages import library_versions
from dimba.plan.model import LaunchPlan
from dimba.records import RunRecord

_FILES = {"base_hash": "base_checkpoint", "data_hash": "dataset", "trainer_hash": "trainer"}


@dataclass(frozen=True)
class Difference:
    """A part of the job that is not as the record has it; `key` is the spec's."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


def made_with(plan: LaunchPlan, spec: bytes) -> dict[str, Any]:
    """Fields of a run's record that its plan and its spec determine."""
    return {
        "dimba_version": __version__,
        "effective_batch": plan.steps.effective_batch,
        "packages": dict(plan.image.versions) if plan.image else library_versions(),
        "spec_hash": spec_hash(spec),
    }


def spec_hash(spec: bytes) -> str:
    """The hash of a spec's file in a record."""
    return f"sha256:{hashlib.sha256(spec).hexdigest()}"


def differences(
    record: RunRecord, before: Mapping[str, Any], plan: LaunchPlan, now: Mapping[str, Any]
) -> list[Difference]:
    """What has changed since the run began; `before` is its plan.json, `now` the fields as they are."""
    return [*_files(record, before, plan, now), *_batch(record, before, plan), *_software(record, plan, now)]


def uncompared(record: RunRecord, now: Mapping[str, Any]) -> list[str]:
    """A sentence for each part that cannot be compared: an older record lacks it, or the Hub does not answer."""
    parts = [(key, getattr(record, name), now.get(name)) for name, key in _FILES.items() if name != "trainer_hash"]
    lacking = ", ".join(key for key, old, _ in parts if not old)
    silent = ", ".join(key for key, old, new in parts if old and not new)
    found = [f"not compared with the start of the run, whose record lacks it: {lacking}"] if lacking else []
    return found + ([f"not compared with the start of the run, as it cannot be read now: {silent}"] if silent else [])


def present(record: RunRecord, plan: LaunchPlan, now: Mapping[str, Any]) -> dict[str, Any]:
    """`now` with the commits that the Hub has at present, where the record has the earlier ones."""
    base = () if plan.checkpoint.local else (plan.checkpoint,)
    data = () if plan.data.files else plan.data.on_hub  # of a list with files, those alone are compared
    found = {}
    for name, kind, facts in (("base_hash", "models", base), ("data_hash", "datasets", data)):
        commits = [commit_of(kind, each.reference, each.revision) for each in facts] if getattr(record, name) else []
        if commits and all(commits):
            found[name] = f"commit:{'+'.join(filter(None, commits))}"
    return {**now, **found}


def refuse(run_id: str, found: list[Difference]) -> BadInput:
    """The refusal to resume a run that would train something else."""
    lines = "\n".join(f"  {each}" for each in found)
    hint = f"restore what has changed; or `dimba resume {run_id} --anyway` continues with it and notes it in run.json"
    return BadInput(f"{run_id} would not continue with what it began with:\n{lines}", f"{hint}; or launch a new run")


def _files(
    record: RunRecord, before: Mapping[str, Any], plan: LaunchPlan, now: Mapping[str, Any]
) -> Iterator[Difference]:
    for name, key in _FILES.items():
        old, new = getattr(record, name), now.get(name)
        if old and new and old != new:
            rows = _rows(before, plan) if name == "data_hash" else ""
            yield Difference(key, f"{_reference(plan, name)} has changed ({_short(old)}, now {_short(new)}{rows})")
    base = before.get("checkpoint") or {}
    if base.get("local") and not plan.checkpoint.local:
        yield Difference("base_checkpoint", f"{base.get('reference')} is gone; it now names a model on the Hub")
    for path, old in record.files.items():
        new = now.get("files", {}).get(path)
        if old != new:
            yield Difference("trainer_args", f"{path} has changed ({_short(old)}, now {_short(new)})")
    if record.spec_hash and record.spec_hash != now["spec_hash"]:
        yield Difference("job.yaml", "the run's copy of its spec has been edited")


def _reference(plan: LaunchPlan, name: str) -> str:
    facts: dict[str, CheckpointFacts | DataFacts] = {"base_hash": plan.checkpoint, "data_hash": plan.data}
    return facts[name].reference if name in facts else "its script"


def _rows(before: Mapping[str, Any], plan: LaunchPlan) -> str:
    old = ((before.get("data") or {}).get("summary") or {}).get("rows")
    new = plan.data.summary.rows if plan.data.summary else None
    return f"; {old:,} rows, now {new:,}" if isinstance(old, int) and new is not None and old != new else ""


def _batch(record: RunRecord, before: Mapping[str, Any], plan: LaunchPlan) -> Iterator[Difference]:
    old = record.effective_batch or (before.get("steps") or {}).get("effective_batch")
    new = plan.steps.effective_batch
    if isinstance(old, int) and old != new:
        gpus = f"{plan.steps.processes} × {plan.steps.batch_size} × {plan.steps.accumulation}"
        yield Difference("training.batch_size", f"the effective batch was {old}, and is {new} ({gpus})")


def _software(record: RunRecord, plan: LaunchPlan, now: Mapping[str, Any]) -> Iterator[Difference]:
    if image := plan.image:
        is_foreign = image.key is None and image.id and record.image_digest
        if record.image and image.reference != record.image:
            yield Difference("container", f"{record.image}, its image, is gone; now {image.reference}")
        elif is_foreign and image.id != record.image_digest:
            yield Difference("container.image", f"{image.reference} was {record.image_digest}, and is {image.id}")
        elif record.packages and image.versions != record.packages:
            yield Difference("container.pins", f"{record.image}, its image, is gone; the newest releases may be others")
        return
    if record.image:
        yield Difference("runner", f"it ran in {record.image}, and would run without a container")
    changed = [name for name, old in record.packages.items() if now["packages"].get(name) != old]
    for name in changed:
        yield Difference("libraries", f"{name} {record.packages[name]}, now {now['packages'].get(name) or 'none'}")
    if record.lock_hash and now.get("lock_hash") and record.lock_hash != now["lock_hash"] and not record.packages:
        yield Difference("libraries", "the pinned versions have changed")


def _short(digest: str | None) -> str:
    return f"{digest[:19]}…" if digest else "missing"
