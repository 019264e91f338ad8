"""Rows from a file or from the Hub, as chats."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dimba.contract import names_a_path
from dimba.errors import BadInput
from dimba.formats import Message, as_messages, read_rows, recognise

# Splits of data sets that have no `train`.
DEFAULT_SPLITS = {"HuggingFaceH4/ultrachat_200k": "train_sft"}

Chat = tuple[str, list[Message]]


def read_chats(dataset: str, *, config: str | None, split: str | None, columns: dict[str, str]) -> Iterator[Chat]:
    """(where, messages) of every row of a local file or a Hub data set; raises BadInput at the first bad row."""
    rows = _from_file(dataset) if names_a_path(dataset) else _from_hub(dataset, config, split)
    form = None
    for where, row in rows:
        form = form or recognise(row, columns, where)
        yield where, as_messages(row, form, columns, where)


def _from_file(dataset: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return read_rows(Path(dataset).expanduser())


def _from_hub(name: str, config: str | None, split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    split = split or DEFAULT_SPLITS.get(name, "train")
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "check the id, config and split on the Hub; a private one needs HF_TOKEN; offline, give a local file"
        raise BadInput(f"data set `{name}`, split `{split}`: {reason}", hint) from error
    return ((f"{name}[{split}] row {number}", dict(row)) for number, row in enumerate(rows, 1))
