"""Plans every run of a sweep before the first one starts: all problems at once, and nothing is written."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dimba.common.errors import BadInput, DimbaError, SeveralErrors, raise_all
from dimba.host.build_context import image_extra
from dimba.jobs.context import JobContext, Policy, gather
from dimba.jobs.gpu_leases import wanted_by
from dimba.jobs.launch import choices_of
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.sweep.effect import equal_runs, ineffective
from dimba.jobs.sweep.grid import MOST, Axis, Combination, combinations, folder_names, override, size_of
from dimba.jobs.sweep.planned import PlannedRun, PlannedSweep, Request
from dimba.jobs.sweep.points import require_points
from dimba.jobs.trust import Ask, require_trust
from dimba.plan.slurm_array import array_script
from dimba.records.leases import GpuRequest, assign
from dimba.records.store import new_run_id
from dimba.runners.registry import find_runner
from dimba.spec import JobSpec, LoadedSpec, load_spec
from dimba.spec.load import BadSpec

_REFUSED = {
    "name": "changes nothing in the training",
    "output_dir": "each run of a sweep gets a folder of its own below the spec's",
    "output_store": "each run of a sweep gets a folder of its own in the spec's store",
    "runner": "the runs of a sweep share one runner",
    "mode": "runs of different modes have no metric to compare",
    "version": "has one value",
}
_MOST_AHEAD = 4  # runs that wait for GPUs, prepared: each is a process of its own


def plan_sweep(request: Request, reporter: Reporter, ask: Ask | None) -> PlannedSweep:
    """The runs of a sweep, each with its plan.

    Raises:
        DimbaError: all problems of all combinations, each once.
    """
    base = _base(request)
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
    keys = [axis.key for axis in request.axes]
    without_points = require_points(runs[0].plan, runs[0].context.spec, keys) if request.stop_worst else ()
    raise_all([*(list(ineffective(request.axes, runs)) or equal_runs(runs)), *without_points])
    if runs[0].context.runner.capabilities.takes_arrays:
        array_script([run.first_attempt for run in runs], sweep_id, 0)  # refuses what no array can be
    at_once, ahead = _at_once(runs, request)
    return PlannedSweep(
        id=sweep_id,
        runs=runs,
        combinations=size_of(request.axes),
        draw_seed=seed if len(drawn) < size_of(request.axes) else None,
        at_once=at_once,
        ahead=ahead,
    )


def _base(request: Request) -> LoadedSpec:
    """The spec without the swept values; with the first of each where it needs them."""
    try:
        return load_spec(request.spec, request.overrides)
    except BadSpec:
        first = [f"{axis.key}={axis.values[0]}" for axis in request.axes]
        try:
            return load_spec(request.spec, [*request.overrides, *first])
        except BadInput as error:
            raise _named(error, request.axes) from None


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
        if any(re.match(rf"--set {re.escape(axis.key)}($|[.\[])", problem.key) for axis in axes):
            problem.key = problem.key.replace("--set ", "--sweep ")
    error.cause = re.sub(r"^--set ", "--sweep ", error.cause)
    return error


def _raise_distinct(errors: Sequence[BadInput]) -> None:
    """Raise every problem once; most combinations share theirs."""
    if not errors:
        return
    specs = [each for each in errors if isinstance(each, BadSpec)]
    distinct = {problem.message: problem for each in specs for problem in each.problems}
    given = [each for each in distinct.values() if each.key != "--set output_dir"]  # which only repeats the values
    for each in specs[:1]:
        each.problems = tuple(given or distinct.values())
    others = {str(each): each for each in errors if each not in specs}
    raise_all([*specs[:1], *others.values()])


def _planned(
    loaded: Sequence[LoadedSpec], drawn: Sequence[Combination], sweep_id: str, request: Request, reporter: Reporter
) -> list[JobContext]:
    found = find_runner(loaded[0].spec.runner)
    errors: dict[str, list[tuple[int, DimbaError]]] = {}
    contexts: list[JobContext] = []
    images: dict[str, JobContext] = {}  # the first of each image, as a look at one takes a quarter of a second
    for number, each in enumerate(loaded, 1):
        reporter.progress("planning the runs", number - 1, len(loaded))
        alike = images.get(key := _image_key(each.spec))
        choices = choices_of(request.options, run_id=run_id(sweep_id, number))
        policy = Policy(asks="any", choices=choices, image=alike.facts.image if alike else None)
        context = gather(each, found, policy, reporter.rows)
        images.setdefault(key, context)
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


def _image_key(spec: JobSpec) -> str:
    """Equal for specs whose jobs run in the same image."""
    return repr((spec.container, spec.slurm, image_extra(spec)))


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
    raise_all(list(ineffective(axes, runs)))
    return replace(planned, runs=tuple(runs))


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
