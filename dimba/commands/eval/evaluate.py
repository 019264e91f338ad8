"""`dimba eval`: gathers models and rows, measures, and compares."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimba.commands.eval.answers import Answers, answer_rows, judged, require_references, reward_measures
from dimba.commands.eval.guard import NAME as GUARD
from dimba.commands.eval.guard import guard_note, guard_rows
from dimba.commands.eval.losses import Losses, LossTable, score_rows
from dimba.commands.eval.margins import margin_measures
from dimba.commands.eval.overlap import gather_rows, without_overlap
from dimba.commands.eval.request import Contestants, EvalRequest, find_contestants, scoring_of
from dimba.commands.eval.result import Evaluation, Measure, ModelResult, ranked
from dimba.commands.eval.rows import EvalRow, require_enough
from dimba.commands.eval.statistics import LEAST, compare
from dimba.commands.eval.task_measures import task_measures, task_notes
from dimba.commands.eval.tasks import TaskSet, cut_notes, gather_tasks, run_tasks
from dimba.commands.talk.session import model_session
from dimba.common.contract import EVAL_FILE
from dimba.common.errors import BadInput, HostCannot
from dimba.common.tasks import TaskValues
from dimba.host.build_context import EVAL
from dimba.jobs.lifecycle import Reporter
from dimba.plan.mounts import same_place
from dimba.records.record import now
from dimba.records.store import write_atomically


def evaluate(request: EvalRequest, reporter: Reporter) -> Evaluation:
    """Whether models are better than the one that they are compared with; raises DimbaError.

    Everything that can be refused is refused before a GPU is leased.
    """
    request.require_sense()
    contestants = find_contestants(request, reporter)
    contestants.require_measures(request)
    gathered = gather_rows(request, contestants, reporter)
    request = request.with_rewards_of(contestants.models[0].name, gathered.rewards)
    rows, place = without_overlap(gathered.rows, gathered.overlap), gathered.place
    if request.uses_rows:
        require_enough(rows, f"{place} that are not in the training data")
        require_references(rows, request)
    tasks = gather_tasks(request, contestants, reporter) if request.tasks else None
    if request.judge:
        request.judge.require_usable()
    figures = _measured(contestants, rows, tasks, request, reporter)
    found = _compared(contestants, rows, tasks, figures, request=request, reporter=reporter)
    models = ranked(found.models)
    return Evaluation(
        models=models,
        against=contestants.name,
        against_folder=str(contestants.against.folder),
        source=", ".join(filter(None, (place, tasks.source if tasks else ""))),
        held_out=request.uses_rows and request.file is None,
        rows=len(rows) - len(found.unusable) if request.uses_rows else models[0].deciding.comparison.rows,
        unusable=found.unusable,
        notes=(*gathered.overlap.notes, *found.notes),
        time=now(),
        more={
            **({"overlap": gathered.overlap.as_json(gathered.rows)} if request.uses_rows else {}),
            **_asked(request, tasks),
        },
    )


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """What was measured of one model."""

    losses: Losses
    rejected: Losses  # of the rejected sides of pairs
    answers: Answers | None
    guard: Losses | None
    tasks: Mapping[str, TaskValues]


def _measured(
    contestants: Contestants, rows: Sequence[EvalRow], tasks: TaskSet | None, request: EvalRequest, reporter: Reporter
) -> list[_Figures]:
    """Of each model, then of the one that they are compared with; it is loaded beside the first."""
    found: list[_Figures] = []
    scoring = scoring_of(contestants.models[0], request.batch_size)
    for number, source in enumerate(contestants.models):
        beside = None if number else contestants.against
        count = 2 if beside else 1
        with model_session(source, "eval", reporter, beside, **_session(request, tasks)) as session:
            scored = rows if contestants.loss else []
            losses = score_rows(session, scored, scoring, reporter, models=count)
            pairs = [replace(row, sample=row.rejected) for row in scored if row.rejected]
            rejected = score_rows(session, pairs, scoring, reporter, models=count)
            answers: Sequence[Answers | None] = [None] * count
            if request.asks:
                answers = answer_rows(session, rows, request, reporter, models=count)
            guard: Sequence[Losses | None] = [None] * count
            if request.guard:
                guard = score_rows(session, guard_rows(), scoring, reporter, models=count)
            values = run_tasks(session, tasks, reporter, models=count) if tasks else [{}] * count
            for one, other, said, general, task in zip(losses, rejected, answers, guard, values, strict=True):
                found.append(_Figures(losses=one, rejected=other, answers=said, guard=general, tasks=task))
    return [found[0], *found[2:], found[1]]


def _session(request: EvalRequest, tasks: TaskSet | None) -> dict[str, Any]:
    """What the models' process needs beside the models."""
    mounts = [same_place(request.reward_model, read_only=True)] if request.reward_model else []
    if tasks is None:
        return {"mounts": mounts}
    return {"mounts": [*mounts, *tasks.mounts], "image": EVAL, "online": not tasks.files.is_local}


@dataclass(frozen=True, kw_only=True)
class _Compared:
    models: list[ModelResult]
    unusable: dict[str, str]
    notes: tuple[str, ...]


def _compared(
    contestants: Contestants,
    rows: Sequence[EvalRow],
    tasks: TaskSet | None,
    figures: Sequence[_Figures],
    *,
    request: EvalRequest,
    reporter: Reporter,
) -> _Compared:
    table = LossTable.of([each.losses for each in figures])
    has_losses = bool(contestants.loss) and any(row.sample for row in rows)
    if has_losses and len(table.numbers) < LEAST:
        problem = next(iter(table.problems.values()), "")
        raise BadInput(f"{len(table.numbers)} rows have a loss: {problem}", f"give {LEAST} rows or more")
    count, models = len(contestants.models), []
    for number, source in enumerate(contestants.models):
        measures = _guard(figures, number, count)
        measures += [replace(_loss(table, number, count), name=contestants.loss)] if has_losses else []
        measures += margin_measures([(each.losses, each.rejected) for each in figures], number, count)
        ours, theirs = figures[number].answers, figures[-1].answers
        if ours and theirs:
            measures += reward_measures(ours, theirs, count)
            measures += [judged(request.judge, rows, (ours, theirs), count, reporter)] if request.judge else []
        if tasks:
            measures += task_measures(tasks, figures[number].tasks, figures[-1].tasks, count)
        models.append(ModelResult(name=source.name, folder=str(source.folder), measures=tuple(measures)))
    unusable = {row.where: row.problem or table.problems.get(row.number, "") for row in rows}
    bad = {where: problem for where, problem in unusable.items() if problem}
    guards = ((each.name, found) for each in models for found in each.measures if found.name == GUARD)
    lost = tuple(guard_note(name, found, contestants.loss) for name, found in guards)
    of_tasks = _task_notes(contestants, tasks, figures) if tasks else ()
    return _Compared(models=models, unusable=bad, notes=(*_notes(contestants, table, rows), *lost, *of_tasks))


def _task_notes(contestants: Contestants, tasks: TaskSet, figures: Sequence[_Figures]) -> tuple[str, ...]:
    names = [*(each.name for each in contestants.models), contestants.name]
    cut = [note for name, each in zip(names, figures, strict=True) for note in cut_notes(name, each.tasks)]
    return (*tasks.notes, *task_notes(tasks), *cut)


def _guard(figures: Sequence[_Figures], number: int, comparisons: int) -> list[Measure]:
    """The losses of general rows, which never decide: they stand first."""
    losses = [each.guard for each in figures if each.guard]
    return [replace(_loss(LossTable.of(losses), number, comparisons), name=GUARD)] if losses else []


def _asked(request: EvalRequest, tasks: TaskSet | None) -> dict[str, Any]:
    sampling = {"sampling": request.sampling.as_json()} if request.asks else {}
    return sampling | ({"tasks": tasks.as_json()} if tasks else {})


def _loss(table: LossTable, number: int, comparisons: int) -> Measure:
    ours, theirs = table.rows[number], table.rows[-1]
    differences = [other - own for own, other in zip(ours, theirs, strict=True)]
    count = len(ours)
    return Measure(
        name="loss",
        model=sum(ours) / count,
        against=sum(theirs) / count,
        comparison=compare(differences, comparisons=comparisons),
        lower_is_better=True,
        more={
            "tokens": table.tokens,
            "per_token": {"model": table.per_token[number], "against": table.per_token[-1]},
        },
    )


def _notes(contestants: Contestants, table: LossTable, rows: Sequence[EvalRow]) -> tuple[str, ...]:
    cut = f"{table.cut:,} rows are longer than training reads, and are scored as far as it reads" if table.cut else ""
    bound = contestants.against.family.loss_note if contestants.loss else ""
    apart = f"rows are not scored: {contestants.difference}" if not contestants.loss else ""
    return tuple(filter(None, (cut, bound, apart))) if rows else ()


def keep(evaluation: Evaluation) -> list[Path]:
    """Writes eval.json into the folder of each model that may be written to; returns the files."""
    written = []
    for each in evaluation.models:
        folder = Path(each.folder)
        if folder.is_dir():
            with suppress(HostCannot):  # a model in a folder of others
                status, value = folder.stat(), evaluation.as_json(each)
                data = (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
                write_atomically(folder / EVAL_FILE, data, status.st_uid, status.st_gid)
                written.append(folder / EVAL_FILE)
    return written
