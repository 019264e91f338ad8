"""Division of rows among the ranks of a group: labels are shifted before, as a part's last token predicts the next's.

The ranks of a group take turns: each reads rows of its own, as without division, and every batch is divided among all
of them. So rows, steps and counts are those of any other job on as many processes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.kernels.documents import document_lengths
from dimba.trainers.kernels.sequence import CompleteRows, SequenceGroup

Batch = dict[str, torch.Tensor]


def gather_turns(batch: Batch, group: SequenceGroup) -> list[Batch]:
    """The batches of the group's ranks, in their order; another rank's has no `tokens`, as that rank counts them."""
    mine = {name: value.cpu() for name, value in batch.items()}
    turns: list[Any] = [None] * group.size
    torch.distributed.all_gather_object(turns, mine, group=group.handle)
    device = batch["input_ids"].device
    turns = [{name: value.to(device) for name, value in turn.items()} for turn in turns]
    return [
        turn if rank == group.rank else {**turn, "tokens": torch.zeros_like(turn["tokens"])}
        for rank, turn in enumerate(turns)
    ]


def divide(batch: Batch, group: SequenceGroup) -> dict[str, Any]:
    """This rank's part of each row: `input_ids`, `position_ids` and `shift_labels` [rows, part], and the rest.

    Rows are padded to a multiple of the ranks. An attention mask is left out: padding is on the right, where no token
    of the row sees it.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    more = -ids.shape[1] % group.size
    positions = batch.get("position_ids")
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    rest = torch.arange(more, device=ids.device).expand(len(ids), more)  # a document of its own
    positions = torch.cat([positions, rest], dim=1)
    shifted = pad(labels[:, 1:], (0, more + 1), value=IGNORED)
    parts = {"input_ids": pad(ids, (0, more)), "position_ids": positions, "shift_labels": shifted}
    mine = {name: each.chunk(group.size, dim=1)[group.rank] for name, each in parts.items()}
    return {**mine, "complete_rows": CompleteRows(document_lengths(positions), group)}
