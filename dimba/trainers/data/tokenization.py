"""Rows become tokens once: in a cache that runs and processes share, keyed by everything that they depend on."""

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from dimba.common.errors import HostCannot, Location, UnusableRow
from dimba.dataset.formats import Sample
from dimba.dataset.token_report import bad_rows
from dimba.trainers.data.chat import ChatEncoder, Example, Rendered, TrainOn, Unmaskable
from dimba.trainers.data.render import TemplateFault
from dimba.trainers.data.rows import Source
from dimba.trainers.data.token_store import TokenStore, TokenWriter

_BATCH = 1000  # rows that are tokenised at once
_SHOWN = 5  # bad rows that are told
# The code that decides what a row's tokens are.
_CODE = ("dataset", "trainers/data")

Progress = Callable[[int], None]
Problem = tuple[str, str]  # (what is wrong, what to do next)


def prepare(tokenizer: Any, train_on: TrainOn, source: Source, progress: Progress) -> tuple[TokenStore, bool]:
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
        raise HostCannot(str(error.strerror), hint, file=error.filename or folder) from error


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


def _key(tokenizer: Any, train_on: TrainOn, source: Source) -> str:
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

    def __init__(self, encoder: ChatEncoder, progress: Progress) -> None:
        self._encoder = encoder
        self._progress = progress
        self.rows = self.unusable = 0
        self.altered = 0  # assistant turns of which the template shows a part only
        self.left_out: Counter[str] = Counter()  # rows of which the template leaves something out, by what
        self.faults: Counter[str] = Counter()  # rows that the template does not get along with, by reason
        self.bad: list[dict[str, str]] = []
        self.where = ""  # what stands before a row's number

    def rendered(self, samples: Iterable[tuple[Location, Sample | UnusableRow]]) -> Iterator[Rendered]:
        """The text and trained spans of every row that has some."""
        for where, sample in samples:
            self.rows += 1
            self._progress(self.rows)
            try:
                if isinstance(sample, UnusableRow):
                    raise sample
                yield self._encoder.render(sample, where)
            except UnusableRow as error:
                self._refuse(error)

    def keep(self, batch: Sequence[Rendered], examples: Sequence[Example | Unmaskable], writer: TokenWriter) -> None:
        """Writes the examples that carry loss."""
        for row, example in zip(batch, examples, strict=True):
            if isinstance(example, Unmaskable):
                self._refuse(example)
            elif not example.trained.any():
                self._refuse(UnusableRow("nothing in it carries loss").at(row.where))
            else:
                self.altered += row.altered
                self.left_out.update(row.left_out)
                self.where = row.where.prefix
                writer.add(example, row.where.line or row.where.row or 0)

    def _refuse(self, error: UnusableRow) -> None:
        self.unusable += 1
        if isinstance(error, TemplateFault) and (error.reason in self.faults or len(self.faults) < _SHOWN):
            self.faults[error.reason] += 1
        if len(self.bad) < _SHOWN:
            self.bad.append({"where": str(error.location), "why": error.finding})

    def note(self) -> dict[str, Any]:
        """What was counted."""
        counted = ("rows", "unusable", "altered", "left_out", "faults", "bad", "where")
        return {**{name: getattr(self, name) for name in counted}, "turn_ends": self._encoder.turn_ends}


def _write(folder: Path, encoder: ChatEncoder, source: Source, progress: Progress) -> None:
    form, samples = source.samples()
    preparation = _Preparation(encoder, progress)
    with TokenWriter(folder) as writer:
        for batch, examples in _encoded(encoder, preparation.rendered(samples)):
            preparation.keep(batch, examples, writer)
        columns = {ours: source.columns.get(ours, ours) for ours in form.columns}
        writer.finish({"format": form.name, "columns": columns, **preparation.note()})


def _encoded(encoder: ChatEncoder, rows: Iterator[Rendered]) -> Iterator[tuple[list[Rendered], list[Any]]]:
    """Batches with their tokens. Tokenising leaves Python's lock, so that the next rows are rendered meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        before: list[Rendered] = []
        future = None
        while batch := list(islice(rows, _BATCH)):
            following = pool.submit(encoder.encode_batch, batch)
            if future:
                yield before, future.result()
            before, future = batch, following
        if future:
            yield before, future.result()


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
