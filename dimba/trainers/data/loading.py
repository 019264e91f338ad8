"""From a trainer's flags to what it takes batches from, and a report of what that is."""

from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from dimba.common.contract import names_a_path
from dimba.common.errors import BadInput
from dimba.dataset.token_report import DataReport, longer_rows
from dimba.objectives.sft import SftOptions
from dimba.options.trainer import TrainerOptions, column_names
from dimba.trainers.data.chat import IGNORED, Example, prepare_tokenizer
from dimba.trainers.data.reporting import report_on
from dimba.trainers.data.rows import Source
from dimba.trainers.data.selection import Selection, cuts_too_much, select
from dimba.trainers.data.template_notes import template_notes, template_problem
from dimba.trainers.data.token_store import TokenStore
from dimba.trainers.data.tokenization import Problem, Progress, prepare, row_problem
from dimba.trainers.models.loading import load_tokenizer

_FILLER = -1  # in place of a piece


@dataclass(frozen=True)
class Pieces:
    """Stretches of tokenised rows, int32 [examples, 3]: row, first token, behind the last."""

    store: TokenStore
    index: Any

    def __len__(self) -> int:
        return len(self.index)


class Stored(Protocol):
    """What training takes batches from, in a token store."""

    @property
    def store(self) -> TokenStore:
        """The tokens."""

    def __len__(self) -> int: ...


Taken = TypeVar("Taken", bound=Stored)


@dataclass(frozen=True)
class Data(Generic[Taken]):
    """What is trained and validated on; the report's `problem` says why it must not be."""

    tokenizer: Any
    train: Taken
    validation: Taken
    report: DataReport

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """The tokens that end the trained turns."""
        return tuple(self.train.store.note["turn_ends"])

    def checked(self) -> "Data[Taken]":
        """Itself; raises BadInput where it cannot be trained on as it is."""
        if self.report.problem:
            raise BadInput(self.report.problem, self.report.hint)
        return self


def load_data(args: SftOptions, progress: Progress) -> Data[Pieces]:
    """Reads, tokenises (or finds the tokens), holds out and cuts as `args` of a trainer say; raises BadInput."""
    tokenizer = load_tokenizer(args.base_checkpoint, code=args.trust_remote_code)
    said = prepare_tokenizer(tokenizer)
    source = source_of(args)
    store, cached = prepare(tokenizer, args.train_on, source, progress)
    share, split = held_out(args)
    chosen = select(store, args.max_length, args.on_long, share, args.seed)
    other = prepare(tokenizer, args.train_on, replace(source, split=split), progress)[0] if split else None
    validation = Pieces(store, chosen.validation) if other is None else _all_of(other, args)
    problem, hint = _problem(store, other, chosen, tokenizer, args)
    report = replace(
        report_on(store, chosen, tokenizer, max_length=args.max_length, on_long=args.on_long),
        validation=len(validation),
        notes=tuple(note for note in (said, _pieces_held_out(chosen), *template_notes(store, tokenizer)) if note),
        problem=problem,
        hint=hint,
        cached=cached,
    )
    return Data(tokenizer, Pieces(store, chosen.train), validation, report)


def held_out(args: TrainerOptions) -> tuple[float, str | None]:
    """(share or number of rows, split of its own); raises BadInput for a split of a file."""
    wanted = args.validation_split
    if isinstance(wanted, str) and names_a_path(args.dataset):
        raise BadInput(f"--validation-split: a file has no split `{wanted}`", "give a share (0.05) or a number of rows")
    return (0, wanted) if isinstance(wanted, str) else (wanted or 0, None)


def _pieces_held_out(chosen: Selection) -> str:
    pieces, rows = len(chosen.validation), chosen.held_out_rows
    return f"the {pieces:,} examples held out are the pieces of {rows:,} rows" if pieces != rows else ""


def _all_of(store: TokenStore, args: SftOptions) -> Pieces:
    return Pieces(store, select(store, args.max_length, args.on_long or "truncate").train)


def _problem(
    store: TokenStore, other: TokenStore | None, chosen: Selection, tokenizer: Any, args: SftOptions
) -> Problem:
    """The first thing that is wrong; two empty texts where nothing is."""
    stores = [store, *([other] if other else [])]
    found = [template_problem(each, tokenizer, args.base_checkpoint) for each in stores]
    found += [row_problem(each.note, skip_bad=args.skip_bad_rows) for each in stores]
    found.append(_cut_problem(store, chosen, args))
    return next((problem for problem in found if problem), ("", ""))


def as_dataset(pieces: Pieces, *, step: int = 1) -> Any:
    """A `datasets.Dataset` of `input_ids` and `labels`, read from the token store when they are asked for.

    Rows of one token without loss are added until they are a multiple of `step`: no row is left out or given twice
    for the sake of whole steps, and each step has the same rows on any number of processes.
    """
    from datasets import Dataset

    def example(piece: int) -> dict[str, list[int]]:
        if piece == _FILLER:
            return {"input_ids": [0], "labels": [IGNORED]}
        row, start, end = pieces.index[piece]
        found, part = pieces.store.row(int(row)), slice(start, end)
        made = Example(found.input_ids[part], found.trained[part])
        return {"input_ids": made.input_ids.tolist(), "labels": made.labels().tolist()}

    def fetch(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        examples = [example(piece) for piece in batch["piece"]]
        return {name: [each[name] for each in examples] for name in ("input_ids", "labels")}

    numbers = np.pad(np.arange(len(pieces), dtype=np.int32), (0, -len(pieces) % step), constant_values=_FILLER)
    return Dataset.from_dict({"piece": numbers}).with_transform(fetch)


def source_of(args: TrainerOptions) -> Source:
    """The rows that `args` of a trainer name; raises BadInput for columns that are no pairs."""
    try:
        columns = column_names(args.columns)
    except ValueError as error:
        raise BadInput(str(error), "for example --columns prompt=question response=answer") from None
    return Source(args.dataset, config=args.dataset_config, split=args.dataset_split, columns=columns)


def _cut_problem(store: TokenStore, chosen: Selection, args: SftOptions) -> Problem | None:
    if isinstance(args.validation_split, float) and len(chosen.train) and not len(chosen.validation):
        return f"--validation-split {args.validation_split:g} holds out no row", "hold out more"
    if not len(chosen.train) and len(chosen.validation):
        return f"--validation-split {args.validation_split} holds out every row", "hold out fewer"
    if not len(chosen.train):
        return f"no row has a trained token within {args.max_length:,} tokens", "raise `training.max_length`"
    if not cuts_too_much(store, chosen, args.on_long):
        return None
    trained = int(store.trained_counts.sum())
    share = chosen.cut_trained_tokens / trained
    return (
        f"{longer_rows(chosen.long_rows, args.max_length)}: {share:.0%} of the trained tokens "
        f"({chosen.cut_trained_tokens:,} of {trained:,}) would be cut off",
        f"raise `training.max_length` (the longest row has {int(store.lengths.max()):,} tokens), or say what is meant "
        "with --on-long split, truncate or drop (in a spec `trainer_args: {on-long: split}`)",
    )
