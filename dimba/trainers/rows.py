"""Rows from a file or from the Hub, as samples."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dimba.contract import names_a_path
from dimba.errors import BadInput, BadRow
from dimba.files import Read, read_rows
from dimba.formats import Format, Message, Samples, samples_of

# Splits of data sets that have no `train`.
DEFAULT_SPLITS = {"HuggingFaceH4/ultrachat_200k": "train_sft"}

Chat = tuple[str, list[Message]]


def read_samples(
    dataset: str, config: str | None, split: str | None, columns: Mapping[str, str], mode: str = "sft"
) -> tuple[Format, Samples]:
    """(format, (where, sample) of every row) of a local file or a Hub data set, a BadRow for one that cannot be used.

    Raises:
        BadInput: the data cannot be read, no row of them can, or their format is not recognised.
    """
    rows = read_rows(Path(dataset).expanduser()) if names_a_path(dataset) else _from_hub(dataset, config, split)
    return samples_of(rows, columns, mode)


def read_chats(dataset: str, *, config: str | None, split: str | None, columns: dict[str, str]) -> Iterator[Chat]:
    """(where, messages) of every row; raises BadInput at the first that is bad, or no chat."""
    for where, sample in read_samples(dataset, config, split, columns)[1]:
        if isinstance(sample, BadRow):
            raise sample
        if sample.text is not None:
            raise BadRow(where, "plain text, expected a chat")
        yield where, list(sample.messages)


def _from_hub(name: str, config: str | None, split: str | None) -> Read:
    import datasets

    split = split or DEFAULT_SPLITS.get(name, "train")
    try:
        streaming = _is_beyond_memory(datasets.load_dataset_builder(name, config).info, split)
        rows = datasets.load_dataset(name, config, split=split, streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "check the id, config and split on the Hub; a private one needs HF_TOKEN; offline, give a local file"
        raise BadInput(f"data set `{name}`, split `{split}`: {reason}", hint) from error
    return ((f"{name}[{split}] row {number}", dict(row)) for number, row in enumerate(rows, 1))


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
