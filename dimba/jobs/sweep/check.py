"""Plans every run of a sweep before the first one starts: all problems at once, and nothing is written."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput, DimbaError, SeveralErrors, raise_all
from dimba.host.probe import runs_folder
from dimba.jobs.context import JobContext, Policy, gather
from dimba.jobs.gpu_leases import wanted_by
from dimba.jobs.launch import choices_of
from dimba.jobs.lifecycle import Options, Reporter
from dimba.jobs.sweep.grid import MOST, Axis, Combination, combinations, folder_names, override, size_of
from dimba.jobs.sweep.points import require_points
from dimba.jobs.trust import Ask, require_trust
from dimba.plan.model import LaunchPlan
from dimba.plan.slurm_array import array_script
from dimba.records.leases import GpuRequest, assign
from dimba.records.store import new_run_id
from dimba.runners.protocol import FoundRunner
from dimba.runners.registry import find_runner
from dimba.spec import LoadedSpec, load_spec
from dimba.spec.load import BadSpec

_REFUSED = {
    "name": "changes nothing in the training",
    "output_dir": "each run of a sweep gets a folder of its own below the spec's",
    "runner": "the runs of a sweep share one runner",
    "mode": "runs of different modes have no metric to compare",
    "version": "has one value",
}
_MOST_AHEAD = 4  # runs that wait for GPUs, prepared: each is a process of its own


@dataclass(frozen=True, kw_only=True)
class Request:
    """A sweep as the command line asks for it."""

    spec: Path
    axes: tuple[Axis, ...]
    overrides: tuple[str, ...] = ()  # of all runs
    at_most: int | None = None
    seed: int | None = None  # of the draw; None: the spec's
    at_once: int | None = None
    stop_worst: bool = False
    options: Options = field(default_factory=Options)
    trust: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of the sweep: its values, and the job that they make."""

    id: str
    combination: Combination
    context: JobContext

    @property
    def plan(self) -> LaunchPlan:
        """Its plan; before its image is built, with every flag of the trainer."""
        return self.context.assuming_flags().plan()

    @property
    def first_attempt(self) -> LaunchPlan:
        """Its plan in the folder of its first attempt."""
        return self.plan.for_attempt(self.id, self.context.facts.runs / self.id / "attempts" / "1")


@dataclass(frozen=True, kw_only=True)
class PlannedSweep:
    """A sweep that may be launched."""

    id: str
    base: LoadedSpec
    runs: tuple[PlannedRun, ...]
    combinations: int  # of the whole grid
    draw_seed: int | None  # None if every combination runs
    at_once: int
    ahead: int


def plan_sweep(request: Request, reporter: Reporter, ask: Ask | None) -> PlannedSweep:
    """The runs of a sweep, each with its plan.

    Raises:
        DimbaError: all problems of all combinations, each once.
    """
    base = load_spec(request.spec, request.overrides)
    if base.recipe:
        hint = "remove `recipe:`, and it is a spec that can be swept"
        raise BadInput("is a recipe, which trains the same as one run", hint, file=base.source)
    seed = base.spec.training.seed if request.seed is None else request.seed
    _require_axes(request)
    drawn = combinations(request.axes, request.at_most, seed)
    sweep_id = new_run_id(base.spec.name)
    loaded = _loaded(request, base, drawn, sweep_id)
    for each in loaded:
        require_trust(each, Path.cwd(), trust=request.trust, ask=ask)
    contexts = _planned(loaded, drawn, sweep_id, request, reporter)
    runs = tuple(
        PlannedRun(id=run_id(sweep_id, number), combination=combination, context=context)
        for number, (combination, context) in enumerate(zip(drawn, contexts, strict=True), 1)
    )
    without_points = require_points(runs[0].plan, runs[0].context.spec) if request.stop_worst else ()
    raise_all([*_ineffective(request.axes, runs), *without_points])
    if runs[0].context.runner.capabilities.takes_arrays:
        array_script([run.first_attempt for run in runs], sweep_id, 0)  # refuses what no array can be
    at_once, ahead = _at_once(runs, request)
    return PlannedSweep(
        id=sweep_id,
        base=base,
        runs=runs,
        combinations=size_of(request.axes),
        draw_seed=seed if len(drawn) < size_of(request.axes) else None,
        at_once=at_once,
        ahead=ahead,
    )


def run_id(sweep_id: str, number: int) -> str:
    """The id of a sweep's run, counted from 1."""
    return f"{sweep_id}-{number}"


def _require_axes(request: Request) -> None:
    for axis in request.axes:
        if why := _REFUSED.get(axis.key):
            raise BadInput(f"--sweep {axis.key}: {why}", "sweep another key")
        if any(each.partition("=")[0] == axis.key for each in request.overrides):
            raise BadInput(f"{axis.key} is given by --set and by --sweep", "leave out one of them")
    total, wanted = size_of(request.axes), request.at_most
    if min(total, wanted or total) > MOST:
        hint = f"`--sweep-max {min(64, MOST)}` draws so many of them at random"
        raise BadInput(f"a sweep of {min(total, wanted or total):,} runs; {MOST} at most", hint)


def _loaded(request: Request, base: LoadedSpec, drawn: Sequence[Combination], sweep_id: str) -> list[LoadedSpec]:
    errors: list[BadInput] = []
    loaded = []
    for combination, name in zip(drawn, folder_names(drawn), strict=True):
        output = override("output_dir", f"{base.spec.output_dir}/{sweep_id}/{name}")
        try:
            loaded.append(load_spec(request.spec, [*request.overrides, *combination.overrides, output]))
        except BadInput as error:
            errors.append(_named(error, request.axes))
    _raise_distinct(errors)
    return loaded


def _named(error: BadInput, axes: Sequence[Axis]) -> BadInput:
    """The error, with the name of the flag that gave the value."""
    for problem in getattr(error, "problems", ()):
        if problem.key.removeprefix("--set ") in {axis.key for axis in axes}:
            problem.key = problem.key.replace("--set ", "--sweep ")
    error.cause = re.sub(r"^--set ", "--sweep ", error.cause)
    return error


def _raise_distinct(errors: Sequence[BadInput]) -> None:
    """Raise every problem once; most combinations share theirs."""
    if not errors:
        return
    specs = [each for each in errors if isinstance(each, BadSpec)]
    distinct = {problem.message: problem for each in specs for problem in each.problems}
    for each in specs[:1]:
        each.problems = tuple(distinct.values())
    others = {str(each): each for each in errors if each not in specs}
    raise_all([*specs[:1], *others.values()])


def _planned(
    loaded: Sequence[LoadedSpec], drawn: Sequence[Combination], sweep_id: str, request: Request, reporter: Reporter
) -> list[JobContext]:
    found = find_runner(loaded[0].spec.runner)
    errors: dict[str, list[tuple[int, DimbaError]]] = {}
    contexts = []
    for number, each in enumerate(loaded, 1):
        context = _context(each, found, run_id(sweep_id, number), request, reporter)
        try:
            context.assuming_flags().plan()
            contexts.append(context)
        except DimbaError as error:
            for one in error.errors if isinstance(error, SeveralErrors) else (error,):
                errors.setdefault(str(one), []).append((number, one))
    reporter.ended()
    raise_all([_for_some(each, drawn) for each in errors.values()])
    return contexts


def _for_some(found: Sequence[tuple[int, DimbaError]], drawn: Sequence[Combination]) -> DimbaError:
    """The problem, with the first combination that has it unless all have it."""
    number, error = found[0]
    if len(found) < len(drawn):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        error.cause = f"{error.cause} (with {drawn[number - 1].label}{more})"
    return error


def _context(loaded: LoadedSpec, found: FoundRunner, run: str, request: Request, reporter: Reporter) -> JobContext:
    policy = Policy(asks="any", choices=choices_of(request.options, run_id=run), runs=runs_folder(Path.cwd()))
    return gather(loaded, found, policy, reporter.rows)


def prepared(planned: PlannedSweep, reporter: Reporter) -> PlannedSweep:
    """The sweep with its image, built once, and the plans by the trainer's own flags.

    Raises:
        DimbaError: there is no image, or the trainer in it lacks a flag for a swept key.
    """
    runs = []
    for each in planned.runs:
        context = each.context if each.context.is_prepared else each.context.prepared(reporter.progress)
        runs.append(replace(each, context=context))
    reporter.ended()
    axes = [Axis(key, ()) for key in runs[0].combination.keys]
    raise_all(list(_ineffective(axes, runs)))
    return replace(planned, runs=tuple(runs))


def _ineffective(axes: Sequence[Axis], runs: Sequence[PlannedRun]) -> Iterator[BadInput]:
    """An error for each swept key that the trainer does not honour, or that changes nothing of the job."""
    plans = [run.plan for run in runs]
    omitted = {each.key for plan in plans for each in plan.omitted}
    for place, axis in enumerate(axes):
        if axis.key in omitted:
            hint = "leave it out, or take a trainer that has the flag; `dimba plan` lists what a trainer does not take"
            yield BadInput(f"--sweep {axis.key}: the trainer has no flag for it, so every run would be the same", hint)
        elif not _matters(place, runs, [_job(plan) for plan in plans]):
            hint = "leave it out: its runs would train the same model again"
            yield BadInput(f"--sweep {axis.key}: its values change nothing of the job", hint)


def _matters(place: int, runs: Sequence[PlannedRun], jobs: Sequence[Any]) -> bool:
    """Whether two jobs that differ in one axis only are different; True where no two runs can show it."""
    both = list(zip((run.combination.values for run in runs), jobs, strict=True))
    others = sorted(both, key=lambda each: (each[0][:place], each[0][place + 1 :]))
    groups = [list(group) for _, group in groupby(others, key=lambda each: (each[0][:place], each[0][place + 1 :]))]
    shown = [group for group in groups if len(group) > 1]
    return not shown or any(one[1] != group[0][1] for group in shown for one in group[1:])


def _job(plan: LaunchPlan) -> Any:
    """What a plan trains, without its name and its own folders."""
    own = str(plan.output_dir)
    argv = tuple(word.replace(own, "OUT") for word in plan.argv)
    environment = {name: value.replace(own, "OUT") for name, value in plan.environment.items()}
    image = plan.image.reference if plan.image else None
    place = (plan.gpu_ids, plan.nodes, plan.shm_bytes, plan.memory_bytes, plan.network, image, plan.strategy)
    mounts = tuple(mount for mount in plan.mounts if not mount.source.startswith(own))
    return argv, environment, plan.host_environment, mounts, place, plan.slurm


def _at_once(runs: Sequence[PlannedRun], request: Request) -> tuple[int, int]:
    """(runs at the same time, further ones that wait prepared); 0 at a time: as the scheduler decides."""
    first = runs[0]
    if first.context.runner.capabilities.takes_arrays:
        return request.at_once or 0, 0
    leased = first.context.runner.capabilities.leases_gpus and not request.options.share
    if not _all_lease(runs, leased=leased):
        return min(request.at_once or 1, len(runs)), 0
    fits = fitting([wanted_by(run.context.spec, run.plan, run.context.facts) for run in runs])
    at_once = min(fits, request.at_once or fits)
    return at_once, min(at_once, _MOST_AHEAD)


def _all_lease(runs: Sequence[PlannedRun], *, leased: bool) -> bool:
    return leased and all(run.plan.gpus for run in runs)


def fitting(wanted: Sequence[GpuRequest]) -> int:
    """How many of the requests, in their order, the machine's GPUs meet at the same time; at least 1."""
    free = list(dict.fromkeys(gpu for each in wanted for gpu in each.candidates))
    met = 0
    while met < len(wanted) and assign(wanted[met], free, wanted[:met]) is not None:
        met += 1
    return max(1, met)
