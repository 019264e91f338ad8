"""Rows are tokenised once, into a cache that runs and processes share; its key covers everything they depend on."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from huggingface_hub import constants

from dimba.common.errors import HostCannot, Location, UnusableRow
from dimba.dataset.mixture import errors_under, joined, joined_columns
from dimba.dataset.pairs import SkippedPair, Tally
from dimba.dataset.samples import Sample
from dimba.dataset.token_report import list_unusable_rows
from dimba.trainers.data.chat import ChatEncoder, TrainOn
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.render import Rendered, TemplateFault, TemplateSettings, Unmaskable
from dimba.trainers.data.token_store import TokenStore, TokenWriter
from dimba.trainers.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from dimba.trainers.data.rows import Source

_BATCH = 1000  # rows per call of the tokenizer
_SHOWN = 5  # unusable rows in a report
# What became of control tokens in a row's words: they were split, they stayed, or they stand in plain text, where they
# may be meant.
SPLIT, KEPT, TEXT = "split", "kept", "text"
_CODE = ("dataset", "trainers/data")  # the code that decides the tokens of a row

Problem = tuple[str, str]  # (message, hint)
# A row as an objective reads it; of several samples all are kept, or none.
RowResult = Sample | tuple[Sample, ...] | UnusableRow | SkippedPair


class RowFormat(Protocol):
    """A recognised format: its name, and our names of the columns that it reads."""

    @property
    def name(self) -> str:
        """The name for people."""

    @property
    def columns(self) -> Iterable[str]:
        """Our names of its columns."""


class Rows(Protocol):
    """Rows to tokenise, as an objective reads them."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Our names of columns → the names in the data."""

    def identity(self) -> list[Any]:
        """Values that are equal as long as the rows are, and are read alike."""

    def samples(self) -> tuple[RowFormat, Iterable[tuple[Location, RowResult]]]:
        """(format, (where, result) of every row); raises BadInput."""

    @property
    def origin(self) -> Source:
        """Where the rows come from."""

    def problem(self, examples: Sequence[Example]) -> str:
        """Why the examples of a row cannot be trained on together; empty if they can."""


def load_or_tokenize(
    tokenizer: PreTrainedTokenizerFast,
    train_on: TrainOn,
    sources: Sequence[Rows],
    progress: Progress,
    settings: TemplateSettings | None = None,
) -> tuple[TokenStore, bool]:
    """(the tokens of `sources` one after the other, whether the cache had them).

    One of several processes that want the same tokens makes them. The others wait at a file lock: a collective
    operation could time out.

    Raises:
        BadInput: the data cannot be read or have no known format; HostCannot: the cache cannot be written.
    """
    settings = settings or TemplateSettings()
    folder = cache_folder() / _key(tokenizer, train_on, sources, settings)
    if store := _open_cached(folder):
        return store, True
    try:
        with _locked(folder.with_suffix(".lock")):
            if store := _open_cached(folder):  # made by another process while this one waited
                return store, True
            encoder = ChatEncoder(tokenizer, train_on=train_on, settings=settings)
            _write(folder, encoder, sources, progress)
            return TokenStore.open(folder), False
    except OSError as error:
        fix = "fix the permissions of" if isinstance(error, PermissionError) else "free space in"
        hint = f"{fix} {folder.parent}, the cache of tokens, or set HF_HOME to another folder"
        raise HostCannot(str(error.strerror), hint, file=error.filename or folder) from error


def _open_cached(folder: Path) -> TokenStore | None:
    try:
        return TokenStore.open(folder)
    except (OSError, ValueError, EOFError, KeyError):  # absent, or damaged: it is made again
        return None


def cache_folder() -> Path:
    """The folder of tokens in the Hugging Face cache, which runs share and containers mount."""
    return Path(constants.HF_HOME, "dimba", "tokens")


def _key(
    tokenizer: PreTrainedTokenizerFast, train_on: TrainOn, sources: Sequence[Rows], settings: TemplateSettings
) -> str:
    package = Path(__file__).resolve().parents[2]
    rendering = [train_on, tokenizer.chat_template, tokenizer.special_tokens_map, settings.identity()]
    parts = [[each.identity() for each in sources], *rendering, _versions()]
    digest = hashlib.sha256(json.dumps(parts, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for path in sorted(path for room in _CODE for path in (package / room).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _versions() -> list[str]:
    return [version(name) for name in ("transformers", "tokenizers", "jinja2")]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel releases it, however the process ends
        yield


class Counts:
    """The counts that note.json keeps of the rows of one source, made while they are rendered and written."""

    def __init__(self) -> None:
        self.rows = self.unusable = 0
        self.altered = 0  # assistant turns that the template shows in part only
        self.omitted: Counter[str] = Counter()  # rows by what the template omits (keys of omissions.NAMES)
        self.unread: Counter[str] = Counter()  # rows by a column that holds something and is not read
        self.control: Counter[str] = Counter()  # rows with control tokens in their words, by their outcome
        self.control_tokens: dict[str, None] = {}  # the first of them
        self.faults: Counter[str] = Counter()  # rows on which the template fails, by reason
        self.skipped = Tally()
        self.bad: list[dict[str, str]] = []
        self.places: list[tuple[int, str]] = []  # (first row of the store, the text before a row's number) by file

    def add_unusable(self, error: UnusableRow) -> None:
        """Counts an unusable row."""
        self.unusable += 1
        if isinstance(error, TemplateFault) and (error.reason in self.faults or len(self.faults) < _SHOWN):
            self.faults[error.reason] += 1
        if len(self.bad) < _SHOWN:
            self.bad.append({"where": str(error.location), "why": error.finding})

    def add_written(self, row: Sequence[Rendered], at: int = 0) -> int:
        """Counts a row that is written from row `at` of the store on; returns its number in the file."""
        self.altered += sum(each.altered for each in row)
        self.omitted.update({name for each in row for name in each.omitted})
        where = row[0].where
        if not self.places or self.places[-1][1] != where.prefix:
            self.places.append((at, where.prefix))
        return where.line or where.row or 0

    def add_control(self, row: Sequence[Rendered], examples: Sequence[Example]) -> None:
        """Counts a row if people wrote control tokens in it."""
        tokens = [token for each in row for token in each.control]
        if tokens:
            is_kept = any(example.has_control for example in examples)
            self.control[TEXT if row[0].spans is None else KEPT if is_kept else SPLIT] += 1
        for token in tokens[:_SHOWN] if len(self.control_tokens) < _SHOWN else ():
            self.control_tokens[token] = None

    def as_note(self) -> dict[str, Any]:
        """The counts as JSON."""
        skipped = {"counts": self.skipped.counts, "first": {why: str(at) for why, at in self.skipped.first.items()}}
        return {**vars(self), "skipped": skipped, "control_tokens": list(self.control_tokens)}


def _write(folder: Path, encoder: ChatEncoder, sources: Sequence[Rows], progress: Progress) -> None:
    counts, notes, columns = Counts(), list[dict[str, Any]](), list[dict[str, str]]()
    with TokenWriter(folder) as writer:
        for source in sources:
            rows, unusable = counts.rows, counts.unusable
            with errors_under(source.origin.key):
                form, results = source.samples()
                for row, examples in _encoded(encoder, _rendered(encoder, results, counts, progress)):
                    _write_examples(row, examples, source, writer, counts)
            read = {"rows": counts.rows - rows, "unusable": counts.unusable - unusable, "end": len(writer)}
            notes.append({"format": form.name, **read})
            columns.append({ours: source.columns.get(ours, ours) for ours in form.columns})
        note = {
            "format": joined(each["format"] for each in notes),
            "columns": joined_columns(columns),
            "sources": notes,
        }
        note |= {**counts.as_note(), "turn_ends": encoder.turn_ends, "shown_time": encoder.shown_time}
        writer.finish(note)


def _rendered(
    encoder: ChatEncoder, results: Iterable[tuple[Location, RowResult]], counts: Counts, progress: Progress
) -> Iterator[tuple[Rendered, ...]]:
    for where, result in results:
        counts.rows += 1
        progress(counts.rows)
        if isinstance(result, SkippedPair):
            counts.skipped.add(result)
            continue
        try:
            if isinstance(result, UnusableRow):
                raise result
            samples = (result,) if isinstance(result, Sample) else result
            counts.unread.update(samples[0].unread)
            yield tuple(encoder.render(sample, where) for sample in samples)
        except UnusableRow as error:
            counts.add_unusable(error)


def _encoded(
    encoder: ChatEncoder, rows: Iterator[tuple[Rendered, ...]]
) -> Iterator[tuple[tuple[Rendered, ...], list[Example | Unmaskable]]]:
    """Rows with their tokens. The tokenizer releases Python's lock, so the next rows render meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        before: list[tuple[Rendered, ...]] = []
        future = None
        while batch := list(islice(rows, _BATCH)):
            following = pool.submit(encoder.encode_batch, [each for row in batch for each in row])
            if future:
                yield from _by_row(before, future.result())
            before, future = batch, following
        if future:
            yield from _by_row(before, future.result())


def _by_row(
    rows: list[tuple[Rendered, ...]], examples: Iterable[Example | Unmaskable]
) -> Iterator[tuple[tuple[Rendered, ...], list[Example | Unmaskable]]]:
    found = iter(examples)
    return ((row, list(islice(found, len(row)))) for row in rows)


def _write_examples(
    row: Sequence[Rendered],
    encoded: Sequence[Example | Unmaskable],
    source: Rows,
    writer: TokenWriter,
    counts: Counts,
) -> None:
    """Writes the examples of a row if all of them carry loss and fit together."""
    examples = [each for each in encoded if isinstance(each, Example)]
    refused = next((each for each in encoded if isinstance(each, Unmaskable)), None)
    if refused:
        counts.add_unusable(refused)
    elif problem := without_loss(examples) or source.problem(examples):
        counts.add_unusable(UnusableRow(problem).at(row[0].where))
    else:
        number = counts.add_written(row, len(writer))
        counts.add_control(row, examples)
        for example in examples:
            writer.add(example, number)


def without_loss(examples: Sequence[Example]) -> str:
    """Why a row with an example that carries no loss cannot be trained on; empty if all carry some."""
    return "" if all(example.trained.any() for example in examples) else "no token of the row carries loss"


def row_problem(note: Mapping[str, Any], *, skip_bad: bool) -> Problem | None:
    """The problem of data with unusable rows; None if there are none, or if they are skipped and others are left."""
    none_left = note["unusable"] == note["rows"]
    if not note["unusable"] or (skip_bad and not none_left):
        return None
    bad = [(each["where"], each["why"]) for each in note["bad"]]
    lines = list_unusable_rows(bad, note["unusable"], note["rows"])
    skip = ", or skip them with --skip-bad-rows (in a spec `trainer_args: {skip-bad-rows: true}`)"
    return "\n".join(lines), f"correct or remove them{'' if none_left else skip}"
