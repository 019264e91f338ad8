"""Rows from a file or from the Hub, as samples."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dimba.common.contract import names_a_path
from dimba.common.errors import BadInput
from dimba.dataset.files import Read, read_rows
from dimba.dataset.formats import Format
from dimba.dataset.summary import Samples, samples_of
from dimba.trainers.data.tokens import Example

# Splits of data sets that have no `train`.
DEFAULT_SPLITS = {"HuggingFaceH4/ultrachat_200k": "train_sft"}


@dataclass(frozen=True)
class Source:
    """A local file or a data set on the Hub, and how its columns are called (ours → theirs)."""

    dataset: str
    config: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def samples(self) -> tuple[Format, Samples]:
        """(format, (where, sample) of every row), a BadRow for one that cannot be used.

        Raises:
            BadInput: the data cannot be read, no row of them can, or their format is not recognised.
        """
        return samples_of(self.rows(), self.columns)

    def rows(self) -> Read:
        """Every row as it stands in the data, with where; raises BadInput."""
        if names_a_path(self.dataset):
            return read_rows(self._path)
        return _rows_of_hub(self._builder, self.dataset, self._split)

    def identity(self) -> list[Any]:
        """What stays the same as long as the rows and their reading do: the file's content, the Hub's files."""
        if names_a_path(self.dataset):
            what = [str(self._path), _digest(self._path)]  # with its name, which stands before the number of a row
        else:
            what = [self.dataset, self._builder.config_id, self._builder.hash, self._split]
        return [*what, sorted(self.columns.items())]

    def fault(self, examples: Sequence[Example]) -> str:
        """Nothing: a row is one example."""
        return ""

    @property
    def _path(self) -> Path:
        return Path(self.dataset).expanduser()

    @property
    def _split(self) -> str:
        return self.split or DEFAULT_SPLITS.get(self.dataset, "train")

    @cached_property
    def _builder(self) -> Any:
        import datasets

        with _translated(self.dataset, self._split):
            return datasets.load_dataset_builder(self.dataset, self.config)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "check the path and its permissions") from None


def _rows_of_hub(builder: Any, name: str, split: str) -> Read:
    import datasets

    with _translated(name, split):
        streaming = _is_beyond_memory(builder.info, split)
        rows = datasets.load_dataset(name, builder.config.name, split=split, streaming=streaming)
        for number, row in enumerate(rows, 1):
            yield f"{name}[{split}] row {number}", dict(row)


@contextmanager
def _translated(name: str, split: str) -> Iterator[None]:
    """What `datasets` raises, as what is wrong and what to do next."""
    import datasets

    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "check the id, config and split on the Hub; a private one needs HF_TOKEN; offline, give a local file"
        raise BadInput(f"data set `{name}`, split `{split}`: {reason}", hint) from error


def _is_beyond_memory(info: Any, split: str, available: int | None = None) -> bool:
    """Whether a split is streamed rather than fetched whole; part of one (`train[:10%]`) cannot be."""
    known = (info.splits or {}).get(split)
    size = known.num_bytes if known else info.dataset_size
    available = available_memory() if available is None else available
    return bool(size and available) and size > available and split.replace("_", "").isalnum()


def available_memory() -> int:
    """Bytes that a new process could use; 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)
