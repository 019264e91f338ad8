"""`dimba eval`: gathers models and rows, measures, and compares."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dimba.commands.eval.losses import Losses, LossTable, score_rows
from dimba.commands.eval.overlap import gather_rows, without_overlap
from dimba.commands.eval.request import Contestants, EvalRequest, find_contestants, scoring_of
from dimba.commands.eval.result import Evaluation, Measure, ModelResult, ranked
from dimba.commands.eval.rows import EvalRow, require_enough
from dimba.commands.eval.statistics import LEAST, compare
from dimba.commands.talk.session import model_session
from dimba.common.contract import EVAL_FILE
from dimba.common.errors import BadInput
from dimba.jobs.lifecycle import Reporter
from dimba.records.store import write_atomically


def evaluate(request: EvalRequest, reporter: Reporter) -> Evaluation:
    """Whether models are better than the one that they are compared with; raises DimbaError.

    Everything that can be refused is refused before a GPU is leased.
    """
    contestants = find_contestants(request, reporter)
    place = str(request.file or f"the rows that {contestants.models[0].name} held out")
    every, overlap = gather_rows(request, contestants, reporter)
    require_enough(every, place)
    rows = without_overlap(every, overlap)
    require_enough(rows, f"{place} that are not in the training data")
    table = LossTable.of(_losses(contestants, rows, request, reporter))
    found = _evaluation(contestants, rows, table, place, held_out=request.file is None)
    return replace(found, notes=(*overlap.notes, *found.notes), more={"overlap": overlap.as_json(every)})


def _losses(
    contestants: Contestants, rows: Sequence[EvalRow], request: EvalRequest, reporter: Reporter
) -> list[Losses]:
    """Of each model, then of the one that they are compared with; it is loaded beside the first."""
    found: list[Losses] = []
    scoring = scoring_of(contestants.models[0], request.batch_size)
    for number, source in enumerate(contestants.models):
        beside = None if number else contestants.against
        with model_session(source, "eval", reporter, beside) as session:
            found += score_rows(session, rows, scoring, reporter, models=2 if beside else 1)
    return [found[0], *found[2:], found[1]]


def _evaluation(
    contestants: Contestants, rows: Sequence[EvalRow], table: LossTable, place: str, *, held_out: bool
) -> Evaluation:
    if len(table.numbers) < LEAST:
        problem = next(iter(table.problems.values()), "")
        raise BadInput(f"{len(table.numbers)} rows of {place} have a loss; {problem}", f"give {LEAST} rows or more")
    models = [
        ModelResult(
            name=source.name, folder=str(source.folder), measures=(_loss(table, number, len(contestants.models)),)
        )
        for number, source in enumerate(contestants.models)
    ]
    unusable = {row.where: row.problem or table.problems.get(row.number, "") for row in rows}
    return Evaluation(
        models=ranked(models),
        against=contestants.name,
        against_folder=str(contestants.against.folder),
        source=place,
        held_out=held_out,
        rows=len(table.numbers),
        unusable={where: problem for where, problem in unusable.items() if problem},
        notes=_notes(table),
    )


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


def _notes(table: LossTable) -> tuple[str, ...]:
    cut = f"{table.cut:,} rows are longer than training reads, and are scored as far as it reads" if table.cut else ""
    return (cut,) if cut else ()


def keep(evaluation: Evaluation, data: bytes) -> list[Path]:
    """Writes eval.json into the folder of each model that a run of ours or a user owns; returns the files."""
    written = []
    for each in evaluation.models:
        folder = Path(each.folder)
        if folder.is_dir():
            with suppress(PermissionError):
                status = folder.stat()
                write_atomically(folder / EVAL_FILE, data, status.st_uid, status.st_gid)
                written.append(folder / EVAL_FILE)
    return written
