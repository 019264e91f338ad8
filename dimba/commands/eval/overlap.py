"""Which rows of an evaluation also stand in the training data of its models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dimba.commands.eval.hub_overlap import hub_overlaps
from dimba.commands.eval.request import Contestants, EvalRequest
from dimba.commands.eval.rows import (
    EvalRow,
    HeldOut,
    held_out_rows,
    require_enough,
    rows_of_file,
    trainer_flags,
)
from dimba.commands.talk.rows import named_columns
from dimba.common.contract import is_path
from dimba.common.errors import BadInput, HostCannot, first_line
from dimba.dataset.files import read_rows
from dimba.dataset.mixture import MixtureSource
from dimba.dataset.overlap import COPY, Overlap, OverlapIndex, Words, training_words
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_source import ModelSource
from dimba.options.trainer import TrainerOptions, column_names

_LISTED = 100  # overlapping rows in eval.json
_EVERY = 1000  # training rows between reports of progress


@dataclass(frozen=True, kw_only=True)
class OverlapReport:
    """The rows that stand in training data, by number; `compared` training rows, and what could not be compared."""

    found: Mapping[int, Overlap] = field(default_factory=dict)
    compared: int = 0
    missing: tuple[str, ...] = ()
    is_kept: bool = False  # the rows are measured all the same
    what: str = "rows"

    @property
    def copies(self) -> int:
        """Rows that stand there to the letter."""
        return sum(each.kind == COPY for each in self.found.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know, in words."""
        near, lines = len(self.found) - self.copies, list(self.missing)
        if self.found:
            kept = "and are measured all the same" if self.is_kept else "and are left out"
            kinds = f"{self.copies:,} to the letter, {near:,} nearly"
            lines.append(f"{len(self.found):,} {self.what} stand in the training data ({kinds}) {kept}")
        return tuple(lines)

    def with_held_out(self, known: HeldOut) -> "OverlapReport":
        """This report, and the overlap of held-out rows with the rows of their own run."""
        own = {number: each for number, each in known.overlaps.items() if number < len(known.rows)}
        return replace(self, found={**self.found, **own}, compared=self.compared + known.compared)

    def as_json(self, rows: Sequence[EvalRow]) -> dict[str, Any]:
        """The value as JSON, with the first rows by their places."""
        places = [{"row": rows[number].where, **each.as_json()} for number, each in sorted(self.found.items())]
        counts = {"rows": len(self.found), "copies": self.copies, "near": len(self.found) - self.copies}
        unknown = {"not_compared": list(self.missing)} if self.missing else {}
        return {
            **counts,
            "training_rows": self.compared,
            "left_out": not self.is_kept,
            **unknown,
            "places": places[:_LISTED],
        }


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The rows of an evaluation with their place in words, those that stand in training data, and the run's rewards."""

    rows: list[EvalRow] = field(default_factory=list)
    overlap: OverlapReport = field(default_factory=OverlapReport)
    place: str = ""
    rewards: tuple[str, ...] = ()  # that score the answers to held-out prompts


def gather_rows(request: EvalRequest, contestants: Contestants, reporter: Reporter) -> Gathered:
    """The rows of an evaluation; raises BadInput."""
    if not request.uses_rows:
        return Gathered()
    first, *others = contestants.models
    place = str(request.file or f"the rows that {first.name} held out")
    if request.file:
        columns = named_columns(request.columns)
        rows, known = rows_of_file(request.file, columns, request.limit, asks=request.asks), None
    else:
        known = held_out_rows(first, reporter, request.limit)
        rows = known.rows
    against = [] if contestants.is_base else [contestants.against]  # a base was trained elsewhere
    trained = [*others, *against] if known else [first, *others, *against]
    require_enough(rows, place)
    report = _Comparison(rows, reporter, is_kept=request.keep_overlap).of([each for each in trained if each.record])
    overlap = report.with_held_out(known) if known else report
    return Gathered(rows=rows, overlap=overlap, place=place, rewards=known.rewards if known else ())


def document_overlap(
    documents: Sequence[EvalRow], contestants: Contestants, request: EvalRequest, reporter: Reporter
) -> OverlapReport:
    """The documents of tasks that stand in training data; raises BadInput."""
    against = [] if contestants.is_base else [contestants.against]
    trained = [each for each in (*contestants.models, *against) if each.record]
    report = _Comparison(documents, reporter, is_kept=request.keep_overlap).of(trained)
    return replace(report, what="documents of the tasks")


def without_overlap(rows: Sequence[EvalRow], report: OverlapReport) -> list[EvalRow]:
    """The rows that are measured."""
    return [row for row in rows if report.is_kept or row.number not in report.found]


class _Comparison:
    """Compares rows with the training data of models, each data set once."""

    def __init__(self, rows: Sequence[EvalRow], reporter: Reporter, *, is_kept: bool) -> None:
        self._rows = {row.number: row.words for row in rows if row.is_usable}
        self._index = OverlapIndex(self._rows)
        self._missing: dict[str, None] = {}
        self._done: set[str] = set()
        self._reporter, self._is_kept = reporter, is_kept

    def of(self, sources: Sequence[ModelSource]) -> OverlapReport:
        """The overlap with the data of all these runs; raises BadInput if data are gone."""
        for source in sources:
            flags = trainer_flags(source)
            if flags is None:
                self._missing[f"the training data of {source.name} are not known, and were not compared"] = None
            for each in data_sets(source.spec.objective.parse(flags)) if flags else ():
                if str(each) not in self._done:
                    self._done.add(str(each))
                    self._compare(source, each)
        self._reporter.ended()
        missing, compared = tuple(self._missing), self._index.compared
        return OverlapReport(found=self._index.found, compared=compared, missing=missing, is_kept=self._is_kept)

    def _compare(self, source: ModelSource, data: MixtureSource) -> None:
        if not is_path(data.dataset):
            self._compare_hub(source, data)
            return
        try:
            self._index.compare(_local_rows(data, self._reporter))
        except BadInput as error:
            if not self._is_kept:
                hint = "restore the training data, or measure without a comparison: `--keep-overlap`"
                raise BadInput(f"rows cannot be compared with the training data: {error.detail}", hint) from None
            self._missing[f"the training data were not compared: {error.detail}"] = None

    def _compare_hub(self, source: ModelSource, data: MixtureSource) -> None:
        try:
            self._index.add(*hub_overlaps(source, data, self._rows, self._reporter))
        except (BadInput, HostCannot) as error:
            why = f"{data.dataset} is on the Hub, and was not compared: {first_line(error.cause)}"
            self._missing[why] = None


def data_sets(options: TrainerOptions) -> list[MixtureSource]:
    """The data sets that a run was trained on."""
    if options.mixture:
        return [MixtureSource.from_text(text) for text in options.mixture]
    columns = column_names(options.columns)
    config, split, revision = options.dataset_config, options.dataset_split, options.dataset_revision
    return [MixtureSource(dataset=options.dataset, config=config, split=split, revision=revision, columns=columns)]


def _local_rows(data: MixtureSource, reporter: Reporter) -> Iterator[tuple[str, Words]]:
    place = Path(data.dataset).expanduser()
    for count, (where, words) in enumerate(training_words(lambda: read_rows(place, data.split), data.columns)):
        if count % _EVERY == 0:
            reporter.progress("comparing training rows", count, 0)
        yield str(where), words
