"""Repeats a run from its record: the same spec, image and options, in a new output folder."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput
from dimba.jobs.context import Policy, gather
from dimba.jobs.launch import begin, choices_of
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.output_owner import owned_output
from dimba.jobs.recorded import recorded_gpus
from dimba.jobs.resume import options_of, spec_of
from dimba.jobs.trust import remember_run, require_trust_in_run
from dimba.plan.model import LaunchPlan
from dimba.records import RunFolder, RunRecord
from dimba.records.store import new_run_id
from dimba.runners.registry import find_runner

# A change of these changes the losses, so it is refused; a change of the others is reported.
_NEEDED = {"base_hash": "base_checkpoint", "data_hash": "dataset"}
_REPORTED = {"lock_hash": "the pinned versions", "driver": "the driver", "gpu_names": "the GPUs"}


def repeat(
    folder: RunFolder, overrides: Sequence[str], reporter: Reporter, *, detach: bool, trust: bool = False
) -> RunRecord:
    """Train again what the run of `folder` trained, with `overrides` on top; reports what differs.

    Raises:
        DimbaError: its base or data have changed, or the launch is refused.
    """
    record = folder.record()
    fresh = [] if any(each.startswith("output_dir=") for each in overrides) else [f"output_dir={_fresh(record)}"]
    loaded = spec_of(folder, record, [*overrides, *fresh])
    require_trust_in_run(folder.id, loaded, Path.cwd(), trust=trust)
    remember_run(folder.id, loaded, Path.cwd())
    options = options_of(record)
    run = folder.path.parent / new_run_id(loaded.spec.name)
    policy = Policy(
        asks="any", choices=choices_of(options, run_id=run.name), earlier_image=record.image, runs=run.parent
    )

    def compare(plan: LaunchPlan, made_of: dict[str, Any]) -> dict[str, Any]:
        _refuse_other_files(record, made_of)
        for text in _differences(record, folder.plan(), plan, made_of):
            reporter.note(f"not as in {record.id}: {text}")
        return {"same_as": record.id}

    with owned_output(loaded.spec.output_dir, run):
        context = gather(loaded, find_runner(loaded.spec.runner), policy, reporter.rows)
        return begin(context, options, reporter, detach=detach, repeats=compare)


def _fresh(record: RunRecord) -> Path:
    folders = (Path(f"{record.output_dir}-again{'' if n == 1 else f'-{n}'}") for n in count(1))
    return next(each for each in folders if not each.exists())


def _refuse_other_files(record: RunRecord, made_of: dict[str, Any]) -> None:
    for name, key in _NEEDED.items():
        before, now = getattr(record, name), made_of[name]
        if before and now and before != now:
            hint = f"restore the files, or launch {record.id}'s job.yaml to train on the present ones"
            raise BadInput(f"its files have changed since {record.id} ({before[:19]}…, now {now[:19]}…)", hint, key=key)


def _differences(record: RunRecord, before: dict[str, Any], plan: LaunchPlan, made_of: dict[str, Any]) -> Iterator[str]:
    image = plan.image.id if plan.image else None
    if record.image_digest != image or (image is None and _code(record) != _code_now(made_of)):
        before_code = record.image_digest or record.git_revision or record.code_hash
        yield f"the code: {before_code}, now {image or made_of['git_revision'] or made_of['code_hash']}"
    now = made_of | recorded_gpus(plan)
    for name, what in _REPORTED.items():
        if getattr(record, name) != now[name]:
            yield f"{what}: {getattr(record, name)}, now {now[name]}"
    moved = {record.output_dir, str(plan.output_dir)}
    pairs = zip(before.get("argv") or (), plan.argv, strict=False)
    if other := next(((old, new) for old, new in pairs if old != new and not {old, new} <= moved), None):
        yield f"the command: `{other[0]}`, now `{other[1]}`"


def _code(record: RunRecord) -> tuple[Any, ...]:
    return record.git_revision, record.git_diff, record.code_hash


def _code_now(made_of: dict[str, Any]) -> tuple[Any, ...]:
    return made_of["git_revision"], made_of["git_diff"], made_of["code_hash"]
