"""Rows become tokens once: in a cache that runs and processes share, keyed by everything that they depend on."""

import fcntl
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from dimba.common.errors import BadRow, HostCannot
from dimba.dataset.pairs import LeftOut, Tally
from dimba.dataset.samples import Sample
from dimba.dataset.token_report import bad_rows
from dimba.trainers.data.chat import ChatEncoder, Example, Rendered, TrainOn, Unmaskable
from dimba.trainers.data.render import TemplateFault
from dimba.trainers.data.token_store import TokenStore, TokenWriter

_BATCH = 1000  # rows that are tokenised at once
_SHOWN = 5  # bad rows that are told
# The code that decides what a row's tokens are.
_CODE = ("dataset", "trainers/data")

Progress = Callable[[int], None]
Problem = tuple[str, str]  # (what is wrong, what to do next)
Read = Sample | tuple[Sample, ...] | BadRow | LeftOut  # what a row came to; of several samples all are kept or none


class Shape(Protocol):
    """A recognised format: its name, and our names of the columns that it reads."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def columns(self) -> Iterable[str]:
        """Ours."""


class Rows(Protocol):
    """Rows to tokenise, read as an objective reads them."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Ours: theirs."""

    def identity(self) -> list[Any]:
        """Stays the same as long as the rows and their reading do."""

    def samples(self) -> tuple[Shape, Iterable[tuple[str, Read]]]:
        """(format, (where, what it came to) of every row); raises BadInput."""

    def fault(self, examples: Sequence[Example]) -> str:
        """Why the examples of a row cannot be trained on together; empty where they can."""


def prepare(tokenizer: Any, train_on: TrainOn, source: Rows, progress: Progress) -> tuple[TokenStore, bool]:
    """The tokens of `source`, and whether they were there already; `progress` gets the rows done so far.

    Of several processes that want the same tokens one makes them, and the others wait for it at a lock, without a
    collective operation that could time out.

    Raises:
        BadInput: the data cannot be read, or no format fits; HostCannot: there is no room for the tokens.
    """
    folder = cache_folder() / _key(tokenizer, train_on, source)
    if store := _there(folder):
        return store, True
    try:
        with _locked(folder.with_suffix(".lock")):
            if store := _there(folder):  # made while this one waited
                return store, True
            _write(folder, ChatEncoder(tokenizer, train_on=train_on), source, progress)
            return TokenStore.open(folder), False
    except OSError as error:
        what = "mend the permissions of" if isinstance(error, PermissionError) else "make room for"
        hint = f"{what} {folder.parent}, where the tokens of the data are kept, or name another place with HF_HOME"
        raise HostCannot(f"{error.filename or folder}: {error.strerror}", hint) from error


def _there(folder: Path) -> TokenStore | None:
    """What was prepared before; a damaged one is made anew."""
    try:
        return TokenStore.open(folder)
    except (OSError, ValueError, EOFError, KeyError):
        return None


def cache_folder() -> Path:
    """Below the Hugging Face cache, which runs share and containers mount."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME, "dimba", "tokens")


def _key(tokenizer: Any, train_on: TrainOn, source: Rows) -> str:
    package = Path(__file__).resolve().parents[2]
    what = [source.identity(), train_on, tokenizer.chat_template, tokenizer.special_tokens_map, _versions()]
    digest = hashlib.sha256(json.dumps(what, default=str).encode())
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
        fcntl.flock(file, fcntl.LOCK_EX)  # given back by the kernel, whatever becomes of its holder
        yield


class _Preparation:
    """Rows on their way to tokens, and what is noted beside them."""

    def __init__(self, encoder: ChatEncoder, source: Rows, progress: Progress) -> None:
        self._encoder = encoder
        self._source = source
        self._progress = progress
        self.rows = self.unusable = 0
        self.altered = 0  # assistant turns of which the template shows a part only
        self.left_out: Counter[str] = Counter()  # rows of which the template leaves something out, by what
        self.faults: Counter[str] = Counter()  # rows that the template does not get along with, by reason
        self.skipped = Tally()
        self.bad: list[dict[str, str]] = []
        self.where = ""  # what stands before a row's number

    def rendered(self, found: Iterable[tuple[str, Read]]) -> Iterator[tuple[Rendered, ...]]:
        """The texts and trained spans of every row that has some."""
        for where, read in found:
            self.rows += 1
            self._progress(self.rows)
            if isinstance(read, LeftOut):
                self.skipped.add(read)
                continue
            try:
                if isinstance(read, BadRow):
                    raise read
                samples = (read,) if isinstance(read, Sample) else read
                yield tuple(self._encoder.render(sample, where) for sample in samples)
            except BadRow as error:
                self._refuse(error)

    def keep(self, row: Sequence[Rendered], found: Sequence[Example | Unmaskable], writer: TokenWriter) -> None:
        """Writes the examples of a row, where all of them carry loss."""
        examples = [example for example in found if isinstance(example, Example)]
        refused = next((each for each in found if isinstance(each, Unmaskable)), None)
        if refused or (why := _no_loss(examples) or self._source.fault(examples)):
            self._refuse(refused or BadRow(row[0].where, why))
            return
        self.altered += sum(each.altered for each in row)
        self.left_out.update({name for each in row for name in each.left_out})
        self.where, number = _split_number(row[0].where)
        for example in examples:
            writer.add(example, number)

    def _refuse(self, error: BadRow) -> None:
        self.unusable += 1
        if isinstance(error, TemplateFault) and (error.reason in self.faults or len(self.faults) < _SHOWN):
            self.faults[error.reason] += 1
        if len(self.bad) < _SHOWN:
            self.bad.append({"where": error.where, "why": error.why})

    def note(self) -> dict[str, Any]:
        """What was counted."""
        counted = ("rows", "unusable", "altered", "left_out", "faults", "bad", "where")
        skipped = {"counts": self.skipped.counts, "first": self.skipped.first}
        return {
            **{name: getattr(self, name) for name in counted},
            "skipped": skipped,
            "turn_ends": self._encoder.turn_ends,
        }


def _no_loss(examples: Sequence[Example]) -> str:
    return "" if all(example.trained.any() for example in examples) else "nothing in it carries loss"


def _write(folder: Path, encoder: ChatEncoder, source: Rows, progress: Progress) -> None:
    form, found = source.samples()
    preparation = _Preparation(encoder, source, progress)
    with TokenWriter(folder) as writer:
        for row, examples in _encoded(encoder, preparation.rendered(found)):
            preparation.keep(row, examples, writer)
        columns = {ours: source.columns.get(ours, ours) for ours in form.columns}
        writer.finish({"format": form.name, "columns": columns, **preparation.note()})


def _encoded(
    encoder: ChatEncoder, rows: Iterator[tuple[Rendered, ...]]
) -> Iterator[tuple[tuple[Rendered, ...], list[Example | Unmaskable]]]:
    """Rows with their tokens. Tokenising leaves Python's lock, so that the next rows are rendered meanwhile."""
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


def _split_number(where: str) -> tuple[str, int]:
    """`file:` and the line in it."""
    match = re.search(r"\d+$", where)
    return (where[: match.start()], int(match[0])) if match else (where, 0)


def row_problem(note: Mapping[str, Any], *, skip_bad: bool) -> Problem | None:
    """What is wrong with data that have rows that cannot be used, unless these may be skipped and others are left."""
    none_left = note["unusable"] == note["rows"]
    if not note["unusable"] or (skip_bad and not none_left):
        return None
    bad = [(each["where"], each["why"]) for each in note["bad"]]
    lines = bad_rows(bad, note["unusable"], note["rows"])
    skip = (
        ""
        if none_left
        else ", or go on without them: --skip-bad-rows (in a spec `trainer_args: {skip-bad-rows: true}`)"
    )
    return "\n".join(lines), f"correct or remove them{skip}"
