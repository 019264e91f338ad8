"""Rows from a local file or from the Hub, as samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.contract import is_path
from dimba.common.errors import BadInput, HostCannot, Location, first_line
from dimba.common.hub_cache import is_commit
from dimba.dataset.files import DataFiles, Read, find_files, read_rows
from dimba.dataset.formats import Format
from dimba.dataset.local import require_local_keys
from dimba.dataset.summary import Samples, samples_of
from dimba.trainers.data.encoding import Example

if TYPE_CHECKING:
    from datasets import DatasetBuilder, DatasetInfo

# The functions below import `datasets`: it takes 0.7 s, which a preview of a local file does not need.
DEFAULT_SPLITS = {"HuggingFaceH4/ultrachat_200k": "train_sft"}  # of data sets without a split `train`


@dataclass(frozen=True)
class Source:
    """A local file, folder or pattern, or a data set on the Hub, and the names of its columns (ours → theirs)."""

    dataset: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None  # on the Hub
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0  # in a list of data sets
    key: str = "dataset"  # of the spec
    stream: bool = False  # rows are read as they are asked for: never all of them, and no file is hashed
    start: int = 0  # of a stream: the number of the first row
    stop: int | None = None

    @property
    def origin(self) -> Source:
        """Itself."""
        return self

    def require_keys(self) -> None:
        """Raises BadInput for a configuration or split that local data do not have."""
        if is_path(self.dataset):
            require_local_keys(self._path, self.config, self.split, is_file=self._path.is_file())

    def samples(self) -> tuple[Format, Samples]:
        """(format, (where, sample) of every row), a UnusableRow in place of an unusable sample.

        Raises:
            BadInput: the data cannot be read, have no usable row, or have no known format.
        """
        return samples_of(self._some_rows() if self.start else self.rows(), self.columns)

    def _some_rows(self) -> Read:
        rows = self.rows()
        first = next(rows, None)
        if first is None:
            problem = f"{self.start:,} rows to hold out are all that {self.dataset} has"
            raise BadInput(problem, "hold out fewer", key="--validation-split")
        return chain([first], rows)

    def rows(self) -> Read:
        """(where, row) of every row as it is in the data; raises BadInput."""
        if is_path(self.dataset):
            rows: Read = read_rows(self._path, self.split)
        else:
            rows = _rows_of_hub(self._builder, self, stream=self.stream)
        return islice(rows, self.start, self.stop) if self.stream else rows

    def identity(self) -> list[Any]:
        """Values that are equal as long as the rows are: of a local file its content, of a Hub data set its files."""
        if is_path(self.dataset):
            # The path is part of each row's `where`.
            known = _file_stamp if self.stream else _digest
            values = [str(self._path), *((str(each), known(each)) for each in self.files.files)]
        else:
            values = [self.dataset, self._builder.config_id, self._builder.hash, self._split]
        return [*values, *([self.start, self.stop] if self.stream else []), sorted(self.columns.items())]

    def problem(self, examples: Sequence[Example]) -> str:
        """Empty: a row is one example."""
        return ""

    @cached_property
    def files(self) -> DataFiles:
        """The local files; none for a data set on the Hub."""
        return find_files(self._path, self.split) if is_path(self.dataset) else DataFiles(())

    def is_same_on_hub(self, other: Source) -> bool:
        """Whether both name one split of a data set on the Hub."""
        here, there = ((each.dataset, each.config, each.revision, each._split) for each in (self, other))
        return here == there and not is_path(self.dataset)

    @property
    def _path(self) -> Path:
        return Path(self.dataset).expanduser()

    @property
    def _split(self) -> str:
        return self.split or DEFAULT_SPLITS.get(self.dataset, "train")

    @cached_property
    def _builder(self) -> DatasetBuilder:
        import datasets

        with _library_errors(self.dataset, self._split):
            builder = datasets.load_dataset_builder(self.dataset, self.config, **self._at_revision)
        self._require_revision(builder)
        return builder

    @property
    def _at_revision(self) -> dict[str, str]:
        return {"revision": self.revision} if self.revision else {}

    def _require_revision(self, builder: DatasetBuilder) -> None:
        """Raises HostCannot for another commit than asked for: offline, the library takes the newest cached one."""
        asked = self.revision or ""
        if is_commit(asked) and is_commit(builder.hash or "") and builder.hash != asked:
            cause = f"{self.dataset}: the cache has its commit {builder.hash}, and not {asked}"
            raise HostCannot(cause, "restore the network, so that it can be downloaded", key="dataset.revision")


def _file_stamp(path: Path) -> list[int]:
    """The size and modification time of a file that takes too long to hash."""
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return [status.st_size, status.st_mtime_ns]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> BadInput:
    return BadInput(str(error.strerror), "check the path and its permissions", file=path)


def _rows_of_hub(builder: DatasetBuilder, source: Source, *, stream: bool) -> Read:
    import datasets

    name, split = source.dataset, source._split
    with _library_errors(name, split) as progress:
        streaming = stream or _exceeds_memory(builder.info, split)
        place = {"split": split, "streaming": streaming, **source._at_revision}
        rows = datasets.load_dataset(name, builder.config.name, **place)
        for number, row in enumerate(rows, 1):
            progress.rows = number
            yield Location(f"{name}[{split}]", row=number), dict(row)


@dataclass
class _ReadRows:
    rows: int = 0


@contextmanager
def _library_errors(name: str, split: str) -> Iterator[_ReadRows]:
    """Turns the exceptions of `datasets` into BadInput, and into HostCannot once rows were read: the network failed."""
    import datasets

    read = _ReadRows()
    try:
        yield read
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = first_line(error)
        if read.rows:
            cause = f"data set `{name}`, split `{split}`: reading stopped behind row {read.rows:,}: {reason}"
            raise HostCannot(cause, "check the network and the Hub, then resume from the last checkpoint") from error
        hint = "check the id, config and split on the Hub; a private one needs HF_TOKEN; offline, give a local file"
        raise BadInput(f"data set `{name}`, split `{split}`: {reason}", hint) from error


def _exceeds_memory(info: DatasetInfo, split: str) -> bool:
    """Whether a split is larger than the free memory, and so streamed; a slice (`train[:10%]`) cannot be streamed."""
    known = (info.splits or {}).get(split)
    size = known.num_bytes if known else info.dataset_size
    available = available_memory()
    return bool(size and available) and size > available and split.replace("_", "").isalnum()


def available_memory() -> int:
    """Bytes of memory for a new process; 0 on a system that does not report them."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)
