"""The rows of an evaluation: those of a file, or those that a run held out of its training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from dimba.commands.eval.statistics import LEAST
from dimba.common.errors import BadInput, DimbaError, HostCannot, UnusableRow, from_json
from dimba.common.json_lines import event_in
from dimba.dataset.files import read_rows
from dimba.dataset.overlap import Overlap, Words, sample_of, words_of
from dimba.dataset.pairs import SkippedPair
from dimba.dataset.prompt_examples import PromptExample, prompts_of
from dimba.dataset.samples import Sample
from dimba.dataset.summary import samples_of
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_source import ModelSource
from dimba.jobs.place import data_place, last_lines, supervised_command
from dimba.options.table import BASE, VALIDATION_SPLIT
from dimba.records.store import make_folder

_GIVE = "give rows that it was not trained on: `--file ROWS`"


@dataclass(frozen=True, kw_only=True)
class EvalRow:
    """A row: its number from 0, its place, and its sample or why it has none."""

    number: int
    where: str
    sample: Sample | None
    problem: str = ""
    rejected: Sample | None = None  # of a pair, whose chosen side is `sample`
    example: PromptExample | None = None  # the prompt, and the reference that answers are compared with

    @property
    def is_usable(self) -> bool:
        """Whether anything is measured on it."""
        return self.sample is not None or self.example is not None

    @property
    def words(self) -> Words:
        """Its words, as they are compared with those of training rows."""
        return words_of(self.sample or sample_of(self.example))


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows that a run held out, those of its training rows that they stand in, and how many were compared.

    `rewards` are those of the run, if the rows are prompts, whose answers they score.
    """

    rows: list[EvalRow]
    overlaps: Mapping[int, Overlap]
    compared: int
    rewards: tuple[str, ...] = ()


def rows_of_file(
    file: Path, columns: Mapping[str, str], limit: int | None = None, *, asks: bool = False
) -> list[EvalRow]:
    """The rows of a file; raises BadInput.

    They are in any format that SFT reads; if the models are asked (`asks`), in any that GRPO reads, and what has no
    answer to score has no sample.
    """
    if not asks:
        return _rows_with_answers(file, columns, limit)
    _, found = prompts_of(read_rows(file), columns)
    prompts = list(islice(found, limit))
    try:
        known = _rows_with_answers(file, columns, limit)
    except BadInput:
        known = [EvalRow(number=number, where=str(where), sample=None) for number, (where, _) in enumerate(prompts)]
    return [_with_example(row, example) for row, (_, example) in zip(known, prompts, strict=True)]


def _with_example(row: EvalRow, example: PromptExample | UnusableRow | SkippedPair) -> EvalRow:
    if isinstance(example, PromptExample):
        return replace(row, example=example)
    return row if row.problem else replace(row, problem=str(getattr(example, "detail", "the pair compares nothing")))


def example_of(sample: Sample) -> PromptExample | None:
    """The chat up to its last question, with the answer as reference; None for plain text."""
    last = next((at for at, each in reversed(list(enumerate(sample.messages))) if each["role"] == "user"), None)
    if last is None:
        return None
    answers = [str(each.get("content") or "") for each in sample.messages[last + 1 :] if each["role"] == "assistant"]
    return PromptExample(
        messages=tuple(sample.messages[: last + 1]),
        tools=sample.tools,
        reference=answers[-1] if answers else None,
        row={},
        plain=False,
        arguments=sample.arguments,
    )


def _rows_with_answers(file: Path, columns: Mapping[str, str], limit: int | None) -> list[EvalRow]:
    _, found = samples_of(read_rows(file), columns)
    return [
        EvalRow(number=number, where=str(where), sample=None, problem=each.detail)
        if isinstance(each, UnusableRow)
        else EvalRow(number=number, where=str(where), sample=each)
        for number, (where, each) in enumerate(islice(found, limit))
    ]


def require_enough(rows: Sequence[EvalRow], place: str) -> None:
    """Raises BadInput for fewer usable rows than can show anything."""
    usable = sum(each.is_usable for each in rows)
    if usable >= LEAST:
        return
    reason = next((f"; {each.problem}" for each in rows if each.problem), "")
    problem = f"{usable:,} usable row{'s' * (usable != 1)} in {place} cannot show which model is better{reason}"
    raise BadInput(problem, f"give {LEAST} rows or more: a large difference shows in 30, a small one in hundreds")


def held_out_rows(source: ModelSource, reporter: Reporter, limit: int | None = None) -> HeldOut:
    """The rows that the run of a model held out, read by the trainer's own code where it runs.

    Raises:
        BadInput: it held none out, or they cannot be found again.
    """
    flags = _held_out_flags(source)
    source = source.prepared(reporter)
    facts, listener = source.facts, _Listener(reporter)
    make_folder(facts.cache, facts.output.uid, facts.output.gid)
    command = supervised_command(facts, "dimba.trainers.data.held_out", source.spec.mode, *flags)
    done = source.runner.run_once(command, data_place(source.spec, facts), listener)
    reporter.ended()
    if not listener.is_done:
        cause = f"reading the held-out rows failed:\n{last_lines(done.text)}"
        raise listener.error or HostCannot(cause, "run `dimba doctor`")
    return HeldOut(
        rows=listener.rows[:limit],
        overlaps=listener.overlaps,
        compared=listener.compared,
        rewards=listener.rewards,
    )


def _held_out_flags(source: ModelSource) -> list[str]:
    if source.record is None:
        raise BadInput(f"{source.folder} was not trained by a run that is on record here", _GIVE)
    name = source.name
    if source.spec.trainer_args.get(VALIDATION_SPLIT.name) in (None, False):
        raise BadInput(f"run {name} held no rows out of its training", _GIVE)
    flags = trainer_flags(source)
    if flags is None:
        raise BadInput(f"run {name} had a trainer of its own, whose held-out rows are not known", _GIVE)
    return flags


def trainer_flags(source: ModelSource) -> list[str] | None:
    """The flags of one of our trainers in a model's run, with the base where it is now; None without such a run."""
    argv = [str(each) for each in source.run.plan().get("argv", ())] if source.run else []
    script = next((at for at, each in enumerate(argv) if each.endswith(source.spec.objective.script)), None)
    if script is None:
        return None
    flags = argv[script + 1 :]
    at = flags.index(BASE.flag)
    return [*flags[: at + 1], source.facts.checkpoint.reference, *flags[at + 2 :]]


def _row(number: int, found: Mapping[str, Any]) -> EvalRow:
    """A held-out row: a prompt, or a sample, which may be a side of a pair."""
    if "example" in found:
        example = PromptExample.from_json(found["example"])
        return EvalRow(number=number, where=found["where"], sample=None, example=example)
    sample = Sample.from_json(found["sample"])
    rejected = Sample.from_json(found["rejected"]) if "rejected" in found else None
    return EvalRow(number=number, where=found["where"], sample=sample, rejected=rejected, example=example_of(sample))


class _Listener:
    """Receives the JSON lines of `dimba.trainers.data.held_out`; other lines come from libraries."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.rows: list[EvalRow] = []
        self.rewards: tuple[str, ...] = ()
        self.overlaps: dict[int, Overlap] = {}
        self.compared = 0
        self.error: DimbaError | None = None
        self.is_done = False

    def __call__(self, line: str) -> None:
        if event := event_in(line):
            self._take(*event)

    def _take(self, kind: str, found: Any) -> None:
        if kind == "rows":
            self._reporter.rows(int(found))
        elif kind == "rewards":
            self.rewards = tuple(map(str, found))
        elif kind == "row":
            self.rows.append(_row(len(self.rows), found))
        elif kind == "overlap":
            place, share = found["training"], found["share"]
            self.overlaps[found["number"]] = Overlap(kind=found["kind"], where=place, share=share)
        elif kind == "error":
            self.error = from_json(found)
        elif kind == "done":
            self.is_done, self.compared = True, int(found)
