"""From a trainer's flags to its training and validation examples, and a report of them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from dimba.common.contract import is_path
from dimba.common.errors import BadInput
from dimba.dataset.mixture import MixtureSource, errors_under, source_key
from dimba.dataset.token_report import DataReport, SourceReport, longer_rows
from dimba.objectives.sft import SftOptions
from dimba.options.trainer import TrainerOptions, column_names
from dimba.trainers.data.chat import ChatEncoder, prepare_tokenizer
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.mixture import report_sources, source_problem, sources_of, weighted
from dimba.trainers.data.render import TemplateSettings
from dimba.trainers.data.reporting import report_on
from dimba.trainers.data.rows import Source
from dimba.trainers.data.selection import Selection, cuts_too_much, select
from dimba.trainers.data.streaming import RowStream, filler, streamed_parts
from dimba.trainers.data.template_notes import control_problem, template_notes, template_problem
from dimba.trainers.data.token_store import TokenStore
from dimba.trainers.data.tokenization import Problem, load_or_tokenize, row_problem
from dimba.trainers.models.families import family_at
from dimba.trainers.models.loading import load_tokenizer
from dimba.trainers.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

_FILLER = -1  # in place of a piece


@dataclass(frozen=True)
class Pieces:
    """Pieces of tokenised rows; `index` is int32 [examples, 3]: row, first token, end token."""

    store: TokenStore
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def example(self, number: int) -> Example:
        """One piece's tokens."""
        row, start, end = self.index[number]
        found = self.store.row(int(row))
        return Example(found.input_ids[start:end], found.trained[start:end])


class Stored(Protocol):
    """Examples in a token store."""

    @property
    def store(self) -> TokenStore:
        """The tokens."""

    def __len__(self) -> int: ...


Examples = TypeVar("Examples", bound=Stored)


@dataclass(frozen=True)
class Data(Generic[Examples]):
    """Training and validation examples; `report.problem` is the reason why they must not be used, or empty.

    With a `stream`, `train` holds the first of its rows only.
    """

    tokenizer: PreTrainedTokenizerFast
    train: Examples
    validation: Examples
    report: DataReport
    stream: RowStream | None = None

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """The tokens that end the trained turns."""
        return tuple(self.train.store.note["turn_ends"])

    def require_usable(self) -> Data[Examples]:
        """These data; raises BadInput if the report names a problem."""
        if self.report.problem:
            raise BadInput(self.report.problem, self.report.hint)
        return self


def load_data(options: SftOptions, progress: Progress) -> Data[Pieces]:
    """The examples for a trainer's flags: rows read, tokenised or taken from the cache, held out and cut.

    Raises:
        BadInput: the checkpoint's tokenizer or the data cannot be read.
    """
    tokenizer = load_tokenizer(options.base_checkpoint, code=options.trust_remote_code)
    tokenizer_note = prepare_tokenizer(tokenizer)
    settings = TemplateSettings.of(options)
    sources, others, share, streamed = _parts(options)
    other = load_or_tokenize(tokenizer, options.train_on, others, progress, settings)[0] if others else None
    store, is_cached = load_or_tokenize(tokenizer, options.train_on, sources, progress, settings)
    selection = select(store, options.max_length, options.on_long, share, options.seed)
    validation = Pieces(store, selection.validation) if other is None else _all_pieces(other, options)
    train, counts = _weighted(store, selection.train, sources, options)
    problem, hint = _problem(store, other, selection, tokenizer, options) or source_problem(counts) or ("", "")
    file_notes = (note for each in sources for note in each.files.notes)
    family_note = family_at(options.base_checkpoint).note
    own_notes = (tokenizer_note, family_note, _held_out_note(selection))
    notes = (*file_notes, *own_notes, *template_notes(store, tokenizer, options))
    report = replace(
        report_on(store, selection, tokenizer, max_length=options.max_length, on_long=options.on_long),
        examples=len(train),
        validation=len(validation),
        sources=counts,
        notes=tuple(note for note in notes if note),
        problem=problem,
        hint=hint,
        cached=is_cached,
        streamed=streamed is not None,
    )
    stream = _stream(streamed, store, tokenizer, options, settings) if streamed else None
    return Data(tokenizer, Pieces(store, train), validation, report, stream)


def _parts(options: SftOptions) -> tuple[list[Source], list[Source], float, Source | None]:
    """(the rows to tokenise, others to validate on, a share of the first to hold out, the rows to stream)."""
    sources, (wanted, split) = sources_from(options), held_out_rows(options)
    if options.stream:
        sample, others, streamed = streamed_parts(sources, options, wanted, split)
        return sample, others, 0, streamed
    return sources, [replace(each, split=split) for each in sources] if split else [], wanted, None


def _stream(
    source: Source,
    sample: TokenStore,
    tokenizer: PreTrainedTokenizerFast,
    options: SftOptions,
    settings: TemplateSettings,
) -> RowStream:
    """The rows to train on, whose chat template shows the time that it showed in the sample."""
    if settings.time is None and (shown := sample.note["shown_time"]):
        settings = replace(settings, time=datetime.datetime.fromisoformat(shown))
    return RowStream(source, ChatEncoder(tokenizer, train_on=options.train_on, settings=settings), options)


def _weighted(
    store: TokenStore, pieces: np.ndarray, sources: Sequence[Source], options: SftOptions
) -> tuple[np.ndarray, tuple[SourceReport, ...]]:
    """(the pieces of an epoch, the counts of each source of a list)."""
    if not options.mixture:
        return pieces, ()
    numbers = sources_of(store, pieces[:, 0])
    chosen = weighted(pieces[:, 0], numbers, [each.weight for each in sources], options.seed)
    return pieces[chosen], report_sources(sources, store, numbers[chosen])


def sources_from(options: TrainerOptions) -> list[Source]:
    """The data sets that a trainer's flags name; raises BadInput for flags that are not as they should be."""
    found = [MixtureSource.from_text(text) for text in options.mixture]
    if found and (options.columns or options.dataset_split or options.dataset_config or options.dataset_revision):
        hint = "name them within the JSON of each source"
        raise BadInput(
            "--columns, --dataset-split, --dataset-config and --dataset-revision belong to --dataset",
            hint,
            key="--mixture",
        )
    sources = [Source(**vars(each), key=source_key(n)) for n, each in enumerate(found)] or [_source_from(options)]
    for each in sources:
        with errors_under(each.key):
            each.require_keys()
    return sources


def _source_from(options: TrainerOptions) -> Source:
    try:
        columns = column_names(options.columns)
    except ValueError as error:
        raise BadInput(str(error), "for example --columns prompt=question response=answer") from None
    config, split, revision = options.dataset_config, options.dataset_split, options.dataset_revision
    return Source(options.dataset, config, split, revision, columns)


def held_out_rows(options: TrainerOptions) -> tuple[float, str | None]:
    """(share or number of rows, name of another split) of --validation-split; raises BadInput."""
    wanted = options.validation_split
    if not isinstance(wanted, str):
        return wanted or 0, None
    for each in sources_from(options):
        _require_other_split(each, wanted)
    return 0, wanted


def held_out_sources(options: TrainerOptions) -> list[Source]:
    """The data sets in which the held-out rows are: another split, or those that are trained; raises BadInput."""
    sources, (_, split) = sources_from(options), held_out_rows(options)
    return [replace(each, split=split) for each in sources] if split else sources


def _require_other_split(source: Source, wanted: str) -> None:
    key, hint = "--validation-split", "give a share (0.05) or a number of rows"
    other = replace(source, split=wanted)
    if is_path(source.dataset) and not Path(source.dataset).expanduser().is_dir():
        raise BadInput(f"a file has no split `{wanted}`", hint, key=key)
    trained = source.files
    try:
        files = other.files
    except BadInput as error:
        raise BadInput(error.cause, hint, key=key, file=error.file) from None
    if set(files.files) & set(trained.files) or other.is_same_on_hub(source):
        raise BadInput(f"the rows of `{wanted}` are those that are trained", f"name another split, or {hint}", key=key)


def _held_out_note(selection: Selection) -> str:
    pieces, rows = len(selection.validation), selection.held_out_rows
    return f"the {pieces:,} examples held out are the pieces of {rows:,} rows" if pieces != rows else ""


def _all_pieces(store: TokenStore, options: SftOptions) -> Pieces:
    return Pieces(store, select(store, options.max_length, options.on_long or "truncate").train)


def _problem(
    store: TokenStore,
    other: TokenStore | None,
    selection: Selection,
    tokenizer: PreTrainedTokenizerFast,
    options: SftOptions,
) -> Problem | None:
    """The first problem of the data."""
    stores = [store, *([other] if other else [])]
    problems = [template_problem(each, tokenizer, options.base_checkpoint) for each in stores]
    problems += [row_problem(each.note, skip_bad=options.skip_bad_rows) for each in stores]
    problems += [control_problem(each.note, options) for each in stores]
    problems += [_selection_problem(selection, options), _cut_problem(store, selection, options)]
    return next((problem for problem in problems if problem), None)


def _selection_problem(selection: Selection, options: SftOptions) -> Problem | None:
    if isinstance(options.validation_split, float) and len(selection.train) and not len(selection.validation):
        return f"--validation-split {options.validation_split:g} holds out no row", "hold out more"
    if not len(selection.train) and len(selection.validation):
        return f"--validation-split {options.validation_split} holds out every row", "hold out fewer"
    if not len(selection.train):
        return f"no row has a trained token within {options.max_length:,} tokens", "raise `training.max_length`"
    return None


def _cut_problem(store: TokenStore, selection: Selection, options: SftOptions) -> Problem | None:
    if not cuts_too_much(store, selection, options.on_long):
        return None
    trained = int(store.trained_counts.sum())
    share = selection.cut_trained_tokens / trained
    return (
        f"{longer_rows(selection.long_rows, options.max_length)}: {share:.0%} of the trained tokens "
        f"({selection.cut_trained_tokens:,} of {trained:,}) would be cut off",
        f"raise `training.max_length` (the longest row has {int(store.lengths.max()):,} tokens), or choose "
        "--on-long split, truncate or drop (in a spec `trainer_args: {on-long: split}`)",
    )


def as_dataset(pieces: Pieces, *, step: int = 1) -> Dataset:
    """A data set of `input_ids` and `labels`, read from the token store when the trainer asks for them.

    Rows of one token without loss fill it up to a multiple of `step` rows: every optimiser step is full without
    dropping or repeating a row, and has the same rows for any number of processes.
    """

    def examples(numbers: Sequence[int]) -> list[Example]:
        return [filler() if number == _FILLER else pieces.example(number) for number in numbers]

    numbers = np.pad(np.arange(len(pieces), dtype=np.int32), (0, -len(pieces) % step), constant_values=_FILLER)
    return _lazy_dataset(numbers, examples)


def stream_as_dataset(stream: RowStream, *, rows: int) -> Dataset:
    """A data set of the first `rows` examples of the stream, for a trainer that asks for them in their order."""
    return _lazy_dataset(np.arange(rows, dtype=np.int32), stream.examples)


def _lazy_dataset(numbers: np.ndarray, examples: Callable[[Sequence[int]], list[Example]]) -> Dataset:
    from datasets import Dataset  # takes 0.7 s, which a preview does not need

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        found = examples(batch["number"])
        # Arrays: lists of Python's numbers took seven times as long, 5 ms for a batch of 8 × 2,048 tokens.
        return {
            "input_ids": [example.input_ids for example in found],
            "labels": [example.labels() for example in found],
        }

    return Dataset.from_dict({"number": numbers}).with_transform(rows)
