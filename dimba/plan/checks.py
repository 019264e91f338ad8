"""The problems of a job on this machine, all of them at once."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dimba.common.checkpoint import tokenizer_refusal
from dimba.common.checkpoint.quantization import IN_IMAGE
from dimba.common.contract import RUN_ITS_CODE, SHORTEST_SECRET
from dimba.common.errors import BadInput, DimbaError, HostCannot
from dimba.dataset.local import require_local_keys
from dimba.dataset.mixture import keyed
from dimba.host.facts import CheckpointFacts, DataFacts, HostFacts
from dimba.host.trainer import own_trainer
from dimba.options.grpo_table import REWARD, REWARD_MODEL
from dimba.options.kinds import HeldOut
from dimba.options.table import VALIDATION_SPLIT
from dimba.plan.adapter import adapter_problems
from dimba.plan.job import ResolvedJob, resolved
from dimba.plan.model_type import type_refusal
from dimba.plan.speed import float8_problems
from dimba.plan.streaming import stream_problems
from dimba.plan.tracking import evaluation_problems, tracker_problems
from dimba.spec import JobSpec

_BASE, _OUTPUT, _ENV = "base_checkpoint", "output_dir", "container.env"


def problems(spec: JobSpec, facts: HostFacts, run_id: str | None) -> list[DimbaError]:
    """All problems in the facts; `run_id` is the run that may continue in the output folder."""
    errors = [*input_problems(resolved(spec), facts), *_schedule(spec)]
    if facts.trainer.problem:
        errors.append(BadInput(facts.trainer.problem, facts.trainer.hint, key="trainer"))
    if facts.unreadable:
        user = f"the job's user {facts.output.uid}"
        hint = f"`chmod a+r {facts.unreadable[0]}`: the job runs as the owner of the folder of `output_dir`"
        errors.append(HostCannot(f"{user} may not read {facts.unreadable[0]}", hint))
    return errors + _output(facts, run_id) + _environment(spec, facts)


def data_error(error: BadInput) -> BadInput:
    """The error of reading the data, under the spec's key for it."""
    return BadInput(error.detail, error.hint, key=key_of(error))


def key_of(error: BadInput) -> str:
    """The spec's key that an error of reading the data belongs to."""
    if error.key.startswith("--"):
        return _BASE if error.key == "--base-checkpoint" else f"trainer_args.{error.key[2:]}"
    return error.key or "dataset"


def input_problems(job: ResolvedJob, facts: HostFacts) -> list[DimbaError]:
    """The problems of the checkpoint and the data."""
    checkpoint, data = facts.checkpoint, facts.data
    errors: list[DimbaError] = []
    if checkpoint.problem:
        errors.append(BadInput(f"{checkpoint.reference} {checkpoint.problem}", checkpoint.hint, key=_BASE))
    ours = facts.trainer.path == own_trainer(job.mode, facts.project)
    if checkpoint.own_code and ours and job.trainer_args.get("trust-remote-code") is not True:
        brings = f"contains code of its own (`auto_map` or similar in {checkpoint.own_code})"
        errors.append(BadInput(f"{checkpoint.reference} {brings}", RUN_ITS_CODE, key=_BASE))
    if ours:
        errors += [*base_problems(job, facts), *evaluation_problems(job.spec)]
        errors += [*_data_keys(job.spec, data), *_held_out_split(job.spec, data), *stream_problems(job.spec)]
        errors += float8_problems(job, facts)
        errors += tracker_problems(job.spec, facts, partial(_may_have, facts))
    refused = [each for each in data.sources if each.problem] or ([data] if data.problem else [])
    is_repeated = any(each.key == _BASE for each in errors)  # a base that is refused cannot read the data either
    errors += [
        BadInput(each.problem, each.hint, key=each.key) for each in refused if each.key != _BASE or not is_repeated
    ]
    if data.report and data.report.problem:
        errors.append(BadInput(data.report.problem, data.report.hint, key="dataset"))
    return errors


def _data_keys(spec: JobSpec, data: DataFacts) -> Iterator[BadInput]:
    """A configuration or split that local data do not have, for the project's own trainers."""
    pairs = zip(spec.dataset, data.sources, strict=True) if isinstance(spec.dataset, list) else [(spec.dataset, data)]
    for given, facts in pairs:
        place = Path(facts.reference)
        try:
            if facts.local and not facts.problem:
                require_local_keys(place, given.config, given.split, is_file=facts.files == (place,))
        except BadInput as error:
            yield BadInput(
                error.detail, keyed(error.hint, facts.key), key=facts.key + error.key.removeprefix("dataset")
            )


def _held_out_split(spec: JobSpec, data: DataFacts) -> Iterator[BadInput]:
    """A name of a split to hold out, which one file does not have."""
    wanted, key = spec.trainer_args.get(VALIDATION_SPLIT.name), f"trainer_args.{VALIDATION_SPLIT.name}"
    is_reported = data.problem and data.key == key  # by the preview of the data
    if is_reported or not isinstance(wanted, str) or not HeldOut.is_name(wanted):
        return
    for facts in data.sources or (data,):
        if facts.local and facts.files == (Path(facts.reference),):
            hint = "give a share (0.05) or a number of rows"
            yield BadInput(f"{facts.reference} has no split `{wanted}`", hint, key=key)


def base_problems(job: ResolvedJob, facts: HostFacts) -> list[DimbaError]:
    """The reasons why one of the project's own trainers cannot train this base."""
    base, may_have = facts.checkpoint, partial(_may_have, facts)
    refusals = [base.refusal, type_refusal(facts), tokenizer_refusal(base.reference, base.tokenizer_needs, may_have)]
    if base.refusal is None and base.quantization:
        refusals.append(base.quantization.refusal(job.method, may_have))
    errors: list[DimbaError] = [
        BadInput(f"{base.reference} {refusal.problem}", refusal.hint, key=_BASE) for refusal in refusals if refusal
    ]
    if base.positions and (long := base.positions.refusal(job.max_length)):
        errors.append(BadInput(f"{base.reference} {long.problem}", long.hint, key="training.max_length"))
    return [*errors, *_family_problems(job, base), *_reward_problems(job, facts), *adapter_problems(job, base)]


def _family_problems(job: ResolvedJob, base: CheckpointFacts) -> Iterator[BadInput]:
    """What the base's family of models does not have: the mode, an option, or a token without an option."""
    lifted = base.lifted.refusal if base.lifted and base.lifted.by.name not in job.trainer_args else None
    for refusal in filter(None, (base.family.refuses(job.mode), lifted)):
        yield BadInput(f"{base.reference} {refusal.problem}", refusal.hint, key=_BASE)
    for each in base.family.refused_options(job.value_of):
        key = each.param.key or f"trainer_args.{each.param.name}"
        yield BadInput(each.refusal.problem, each.refusal.hint, key=key)


def _reward_problems(job: ResolvedJob, facts: HostFacts) -> Iterator[BadInput]:
    """Whether a reward model would have to be trained on a base that cannot become one."""
    refusal = facts.checkpoint.family.reward_model
    compares = bool(facts.data.summary and facts.data.summary.compares)
    trains_one = job.objective.memory(job.trainer_args, compares).reward_model
    if refusal and trains_one and REWARD_MODEL.name not in job.trainer_args:
        key = f"trainer_args.{REWARD.name}"
        yield BadInput(f"{facts.checkpoint.reference} {refusal.problem}", refusal.hint, key=key)


def _may_have(facts: HostFacts, package: str) -> bool:
    """Whether the job may be able to import a package; an image that dimba did not build can hold any."""
    if facts.image is None:
        return facts.slurm is not None or package in facts.packages
    return facts.image.key is None or package in IN_IMAGE


def _schedule(spec: JobSpec) -> list[DimbaError]:
    scheduler = spec.training.scheduler or spec.objective.params["scheduler"].default
    if not spec.training.warmup or scheduler != "constant":
        return []
    hint = "`training.scheduler: constant_with_warmup` has one, or leave out `training.warmup`"
    return [BadInput("the scheduler `constant` has no warmup", hint, key="training.warmup")]


def _output(facts: HostFacts, run_id: str | None) -> list[DimbaError]:
    output = facts.output
    if output.problem:
        kind = BadInput if output.user_error else HostCannot
        return [kind(output.problem, output.hint, key=_OUTPUT)]
    if output.use and (run_id is None or output.use.owner.run_id != run_id):
        return [BadInput(output.use.cause, output.use.hint, key=_OUTPUT)]
    if output.holds and (run_id is None or output.run_id != run_id):
        whose = f"run `{output.run_id}`" if output.run_id else "an unknown run"
        what = f"{output.path} already holds a model of {whose} ({output.holds[0]})"
        hint = "give another `output_dir` (or `--set output_dir=…`), move that folder away, or remove it"
        if output.run_id:
            hint += f"; `dimba resume {output.run_id}` resumes that run if it did not succeed"
        return [BadInput(what, hint, key=_OUTPUT)]
    return []


def _environment(spec: JobSpec, facts: HostFacts) -> list[DimbaError]:
    names = [item for item in spec.container.env if "=" not in item]
    errors: list[DimbaError] = [
        BadInput(f"`{name}` is not set here", f"`export {name}=…` before launching, or remove it", key=_ENV)
        for name in names
        if name not in facts.environment
    ]
    short = f"its value here has fewer than {SHORTEST_SECRET} characters, and could not be masked in the log"
    hint = "export the real value, or a longer one; or remove the name from `container.env`"
    errors += [BadInput(f"`{name}`: {short}", hint, key=_ENV) for name in names if name in facts.short_secrets]
    return errors
