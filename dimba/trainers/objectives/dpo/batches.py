"""Batches of pairs: the chosen sides first, then the rejected ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.packing import Batch, Feature, collate_padded
from dimba.trainers.objectives.dpo.pairs import SIDES, Pairs

if TYPE_CHECKING:
    from datasets import Dataset


def as_dataset(pairs: Pairs, *, step: int = 1) -> Dataset:
    """A `datasets.Dataset` of `Pairs.feature`, read from the token store when asked for.

    The first pairs come again at the end until they are a multiple of `step`: no pair is left out, and each step has
    the same pairs on any number of processes.
    """
    from datasets import Dataset  # takes 0.7 s, which a preview does not need

    def fetch(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        features = [pairs.feature(pair) for pair in batch["pair"]]
        return {name: [each[name] for each in features] for name in features[0]}

    numbers = np.resize(pairs.numbers, len(pairs) + repeated(len(pairs), step))
    return Dataset.from_dict({"pair": numbers}).with_transform(fetch)


def repeated(pairs: int, step: int) -> int:
    """How many pairs come again to fill the last step of `step` pairs."""
    return -pairs % step


def sides_of(features: Sequence[Feature]) -> list[Feature]:
    """The rows of pairs: all chosen sides, then the rejected ones."""
    return [
        {"input_ids": feature[f"{side}_ids"], "labels": feature[f"{side}_labels"]}
        for side in SIDES
        for feature in features
    ]


def collate_pairs(features: Sequence[Feature], *, pad_id: int) -> Batch:
    """A batch for TRL's DPOTrainer: `input_ids`, `attention_mask` and `completion_mask`, int64 [2 × pairs, longest].

    The chosen sides come first; `completion_mask` is 1 for the tokens that carry loss, as SFT's labels have it.
    """
    batch = collate_padded(sides_of(features), pad_id=pad_id)
    mask = (batch["labels"] != IGNORED).long()
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "completion_mask": mask}


def longest_features(*, pairs: int, length: int) -> list[dict[str, Any]]:
    """Features of pairs of which both sides are `length` tokens, to probe the memory with."""
    names = [f"{side}_{part}" for side in SIDES for part in ("ids", "labels")]
    return [{name: [1] * length for name in names}] * pairs
