"""What stands behind an answer in a batch: nothing, or end tokens up to a multiple."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.packing import Batch, Feature, collate_padded


def collate_with_tail(features: Sequence[Feature], *, pad_id: int, end_id: int, multiple: int, most: int) -> Batch:
    """As `collate_padded`, each row up to its last trained token, and filled with scored end tokens.

    They go up to a `multiple` of tokens, and to `most`: a row that was cut is as long, and so gets no end.
    """
    return collate_padded([_with_tail(each, end_id, multiple, most) for each in features], pad_id=pad_id)


def _with_tail(feature: Feature, end_id: int, multiple: int, most: int) -> Feature:
    trained = np.flatnonzero(np.asarray(feature["labels"]) != IGNORED)
    if not len(trained):  # it only fills a step
        return feature
    length = len(feature["input_ids"])
    end = int(trained[-1]) + 1
    wanted = min(-(-end // multiple) * multiple, most) if multiple and length < most else end
    return {name: [*values[:end], *[end_id] * (wanted - end)] for name, values in feature.items()}
