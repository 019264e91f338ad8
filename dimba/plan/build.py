"""make_plan turns a spec and the facts of a machine into a plan. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dimba.common import contract
from dimba.common.errors import BadInput, DimbaError, raise_all
from dimba.common.runners import Capabilities, capabilities_of, resolve_runner
from dimba.host.facts import Gpu, HostFacts, TrainerFacts
from dimba.host.trainer import objective_of
from dimba.options import table
from dimba.plan.adapter import adapter_notes
from dimba.plan.base import base_notes
from dimba.plan.checks import problems
from dimba.plan.environment import job_environment, limit_environment, memory_environment, spec_environment
from dimba.plan.files import named_files, with_absolute_files
from dimba.plan.fitting import Fit, fit_of, resolve_batch
from dimba.plan.flags import Resolved, flag_for, trainer_argv, value_problems
from dimba.plan.job import ResolvedJob, resolved
from dimba.plan.memory import stop_grace
from dimba.plan.model import ActivationPlan, LaunchPlan, Mount, Omitted, SlurmJob
from dimba.plan.model_type import type_notes
from dimba.plan.mounts import job_mounts
from dimba.plan.network import job_network, network_environment, proxy_notes
from dimba.plan.pins import pins_notes, pins_problems
from dimba.plan.placement import (
    choose_gpus,
    choose_runner,
    gpu_devices,
    job_argv,
    node_problems,
    precision,
    shm_bytes,
    world_size,
)
from dimba.plan.recompute import resolve_activations
from dimba.plan.rows import row_notes
from dimba.plan.sampler import sampler_choice, sampler_environment, sampler_problems, trained_on
from dimba.plan.slurm import slurm_job, slurm_problems
from dimba.plan.speed import speed_choices
from dimba.plan.steps import plan_steps, share_out, warmup_notes
from dimba.plan.store import store_environment, store_mounts, store_notes, store_problems
from dimba.plan.strategy import Strategy, share
from dimba.plan.streaming import stream_notes
from dimba.plan.tracking import evaluation_notes, tracker_notes
from dimba.plan.trainer_notes import trainer_notes
from dimba.plan.ways import memory_problems
from dimba.spec import JobSpec, SlurmSite

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The command line's part of a plan."""

    allow_cpu: bool = False
    gpu_path: str | None = None  # cdi or nvidia, instead of the engine's own
    run_id: str | None = None  # the run that may continue in its output folder
    checkpoint: Path | None = None  # to resume from
    time_limit: float | None = None  # seconds
    kill_hung: bool = False
    gpu_ids: tuple[str, ...] | None = None  # the GPUs that a lease gave it
    rendered_for: str | None = None  # a target of rendering, instead of the spec's runner


@dataclass(frozen=True)
class _Placement:
    runner: str
    can: Capabilities
    gpus: tuple[Gpu, ...]
    trained_on: tuple[Gpu, ...]  # of these: the others only sample
    notes: tuple[str, ...]
    inside: bool  # the job runs in an image


@dataclass(frozen=True)
class _Parts:
    placement: _Placement
    fit: Fit
    strategy: Strategy
    about_batch: str
    activations: ActivationPlan
    flags: tuple[list[str], list[Omitted]]
    mounts: tuple[Mount, ...]
    network: tuple[str | None, str]


def make_plan(spec: JobSpec, facts: HostFacts, choices: Choices | None = None) -> LaunchPlan:
    """The plan of `spec` on the machine of `facts`; raises all problems at once."""
    choices = choices or Choices()
    return _launch_plan(_parts(spec, facts, choices), facts, choices)


def _parts(spec: JobSpec, facts: HostFacts, choices: Choices) -> _Parts:
    errors = problems(spec, facts, choices.run_id) + node_problems(spec, _capabilities(spec, facts, choices))
    errors += slurm_problems(spec, facts.slurm) if facts.slurm else ()
    errors += store_problems(spec, facts)
    errors += pins_problems(spec, facts, _capabilities(spec, facts, choices))
    files = _collect(errors, lambda: named_files(spec, facts)) or {}
    placement = _collect(errors, lambda: _place(spec, facts, choices))
    gpus = placement.trained_on if placement else ()
    processes = world_size(spec, gpus) if placement else 1
    whole = fit_of(with_absolute_files(resolved(spec), files), facts, gpus, processes)
    shared = _collect(errors, lambda: share(whole, spec.resources.nodes, facts.trainer.flags)) if placement else None
    fit, about_batch = resolve_batch(shared[0] if shared else whole)
    fit, activations = resolve_activations(fit, facts.trainer.flags)
    errors += [*(sampler_problems(fit, facts) if placement else ()), *memory_problems(fit)]
    of_process = _collect(errors, lambda: share_out(fit.job, processes)) or fit.job
    flags = _collect(errors, lambda: _flags(of_process, facts, placement, choices)) if placement else None
    mounts = _collect(errors, lambda: job_mounts(spec, facts, *files.values()))
    network = _collect(errors, lambda: job_network(fit.job, facts, placement.can)) if placement else None
    raise_all(errors)
    assert placement is not None and shared is not None
    assert flags is not None and mounts is not None and network is not None
    mounts += store_mounts(spec)
    return _Parts(placement, fit, shared[1], about_batch, activations, flags, tuple(mounts), network)


def _launch_plan(parts: _Parts, facts: HostFacts, choices: Choices) -> LaunchPlan:
    placement, job, strategy = parts.placement, parts.fit.job, parts.strategy
    spec, (argv, omitted), (network, network_why) = job.spec, parts.flags, parts.network
    per_node, mixed = parts.fit.processes // spec.resources.nodes, precision(job, placement.gpus)
    on_cpu, memory = not placement.gpus, parts.fit.estimate()
    grace = stop_grace(memory)
    named, written = spec_environment(spec)
    steps = plan_steps(job, facts, parts.fit.processes)
    notes = (*placement.notes, *filter(None, [parts.about_batch]), *warmup_notes(spec, steps))
    speed = speed_choices(job, facts.checkpoint, on_cpu=on_cpu, mixed=mixed, activations=parts.activations)
    return LaunchPlan(
        name=spec.name,
        mode=spec.mode,
        method=spec.method,
        runner=placement.runner,
        image=facts.image if placement.inside else None,
        argv=(*_launcher(job, facts, placement, strategy), *argv),
        omitted=tuple(omitted),
        flags_from=facts.trainer.flags_from,
        mounts=parts.mounts,
        environment={
            **_environment(facts, placement, choices, network),
            **limit_environment(grace, choices.time_limit, kill_hung=choices.kill_hung),
            **memory_environment(memory),
            **store_environment(spec),
            **sampler_environment(parts.fit, facts, placement.gpus, python=_python(facts, placement)),
            **written,
        },
        host_environment=named,
        gpus=placement.gpus,
        gpu_devices=gpu_devices(placement.gpus, facts, choices.gpu_path),
        shm_bytes=shm_bytes(spec, per_node),
        memory_bytes=spec.resources.memory,
        network=network,
        network_why=network_why,
        uid=facts.output.uid,
        gid=facts.output.gid,
        working_dir=str(facts.output.path),
        output_dir=facts.output.path,
        writable=(facts.cache, facts.output.path, *(Path(each.source) for each in store_mounts(spec))),
        checkpoint=facts.checkpoint,
        data=facts.data,
        steps=steps,
        strategy=strategy.name,
        strategy_why=strategy.reason,
        precision=mixed,
        memory=memory,
        activations=parts.activations if parts.fit.ours else None,
        stop_grace=grace,
        notes=(*notes, *proxy_notes(job, facts, network)),
        nodes=spec.resources.nodes,
        slurm=_slurm(spec, facts, facts.slurm, per_node) if facts.slurm else None,
        speed=(*sampler_choice(job, facts.checkpoint.family, on_cpu=on_cpu), *speed) if parts.fit.ours else (),
        trust=tuple(str(each) for each in facts.trust_requirements),
    )


def _collect(errors: list[DimbaError], part: Callable[[], T]) -> T | None:
    try:
        return part()
    except DimbaError as error:
        errors.append(error)
        return None


def _place(spec: JobSpec, facts: HostFacts, choices: Choices) -> _Placement:
    runner, about_runner = (choices.rendered_for, "") if choices.rendered_for else choose_runner(spec, facts)
    can = capabilities_of(runner)
    gpus, about_gpus = choose_gpus(spec, facts, choices.gpu_ids)
    inside = can.runs_in_image or (can.several_nodes and facts.image is not None)
    notes = [about_runner, about_gpus, *trainer_notes(spec, facts, inside=inside)]
    notes += pins_notes(spec, facts.image) if inside else ()
    if not facts.checkpoint.local:
        base = facts.checkpoint.reference
        notes.append(f"base_checkpoint: no folder `{base}` here, so it is the id of a model on the Hub")
    notes += [*base_notes(facts.checkpoint, spec.training.max_length), *type_notes(facts), *row_notes(spec, facts)]
    notes += [*adapter_notes(spec, facts.checkpoint), *evaluation_notes(spec), *stream_notes(spec, facts)]
    notes += [*tracker_notes(spec, facts.output.path), *store_notes(spec)]
    if spec.trainer_args.get("trust-remote-code") is True:
        notes.append("trust-remote-code: code from the checkpoint runs in the job")
    if choices.allow_cpu and gpus:
        notes.append("on the CPU if the GPUs do not work (--allow-cpu)")
    trains = tuple(trained_on(spec, gpus)) if _is_own(facts) else gpus
    return _Placement(runner, can, gpus, trains, tuple(note for note in notes if note), inside)


def _capabilities(spec: JobSpec, facts: HostFacts, choices: Choices) -> Capabilities:
    resolved = resolve_runner(spec.runner, engine_answers=facts.engine.reachable)
    return capabilities_of(choices.rendered_for or resolved)


def _slurm(spec: JobSpec, facts: HostFacts, site: SlurmSite, processes: int) -> SlurmJob:
    flag = flag_for(table.RESUME, facts.trainer.flags)
    return slurm_job(spec, site, processes=processes, resume_flag=flag)


def _flags(
    job: ResolvedJob, facts: HostFacts, placement: _Placement, choices: Choices
) -> tuple[list[str], list[Omitted]]:
    trainer = facts.trainer
    if trainer.path is None:
        return [], []  # already among the problems
    if trainer.other_mode and not flag_for(table.MODE, trainer.flags):
        found = "" if job.spec.trainer else f"none found for mode `{job.mode}`; "
        raise BadInput(
            f"{found}{trainer.path} is for another mode, and has no --mode flag",
            f"name one for `{job.mode}` with `trainer:`; a trainer of another mode needs a --mode flag",
            key="trainer",
        )
    at = Resolved(
        base=facts.checkpoint.reference,
        data=facts.data.reference,
        output=str(facts.output.path),
        gpu_count=len(placement.gpus),
        sources=tuple(each.reference for each in facts.data.sources),
    )
    made = trainer_argv(job, trainer, at)
    raise_all(value_problems(job, trainer.path, facts.project))
    return made[0] + _resuming(trainer, choices), made[1]


def _resuming(trainer: TrainerFacts, choices: Choices) -> list[str]:
    flag = flag_for(table.RESUME, trainer.flags)
    return [flag, str(choices.checkpoint)] if flag and choices.checkpoint else []


def _launcher(job: ResolvedJob, facts: HostFacts, placement: _Placement, strategy: Strategy) -> tuple[str, ...]:
    inside = placement.inside
    trainer = facts.trainer.in_image if inside and facts.trainer.in_image else str(facts.trainer.path)
    return job_argv(
        trainer,
        gpus=len(placement.trained_on),
        precision=precision(job, placement.gpus),
        cores=facts.cores,
        tokenises=_tokenizes_first(facts),
        sharding=strategy.flags(job.objective),
        python=_python(facts, placement),
    )


def _python(facts: HostFacts, placement: _Placement) -> str:
    return "python" if placement.inside else facts.python


def _is_own(facts: HostFacts) -> bool:
    return objective_of(facts.trainer.path, facts.project) is not None


def _tokenizes_first(facts: HostFacts) -> bool:
    """Whether the trainer is one of the project's own that caches the tokens before its ranks start."""
    own = objective_of(facts.trainer.path, facts.project)
    return own is not None and own.tokenizes_first


def _environment(facts: HostFacts, placement: _Placement, choices: Choices, network: str | None) -> dict[str, str]:
    environment = {
        contract.ENV_GPU_COUNT: str(len(placement.gpus)),
        **job_environment(facts.cache, inside=placement.inside),
    }
    environment |= network_environment(network)
    if choices.allow_cpu:
        environment[contract.ENV_ALLOW_CPU] = "1"
    if placement.inside or (placement.gpus and not placement.can.leases_gpus):
        return environment  # the engine or the scheduler assigns the GPUs
    chosen = ",".join(gpu.id for gpu in placement.gpus)
    return environment | {"CUDA_VISIBLE_DEVICES": chosen}
