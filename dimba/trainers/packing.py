"""Rows of a batch laid end to end, so that no time goes into padding, and nothing else about the training changes.

An optimiser step sees the same rows as without. Whether a model keeps the rows apart is found out on the model itself.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dimba.trainers.chat import IGNORED

Feature = Mapping[str, Any]  # input_ids and labels, each a sequence of ints
Batch = dict[str, Any]  # tensors, and the number of tokens that are no padding
REAL_TOKENS = "real_tokens"

_EXACT = 1e-4  # of a token's loss, in float32
_OF_A_LEAK = 0.05  # of the difference that a leak makes
_PROBE, _PROBE_ROW = (13, 7, 9, 10), 20  # lengths of the probe's documents, and of the two rows they are laid into


@dataclass(frozen=True)
class PaddedBatches:
    """Collates rows into [rows, longest], the padding masked."""

    pad_id: int

    def __call__(self, features: Sequence[Feature]) -> Batch:
        """input_ids, attention_mask and labels, each int64 [rows, longest]; and the number of real tokens."""
        width = max(len(each["input_ids"]) for each in features)
        batch = _filled(len(features), width, input_ids=self.pad_id, attention_mask=0, labels=IGNORED)
        for row, feature in enumerate(features):
            _lay(batch, row, 0, feature)
            batch["attention_mask"][row, : len(feature["input_ids"])] = 1
        return {**batch, REAL_TOKENS: int(batch["attention_mask"].sum())}


@dataclass(frozen=True)
class PackedBatches:
    """Collates rows end to end into fewer rows, each at most `max_length` or the longest row's length.

    Without an attention mask, `position_ids` that start again are what keeps documents apart; padding at a row's end is
    a document of its own.
    """

    pad_id: int
    max_length: int
    hidden_size: int = 4096  # of the model: how much a token's own cost outweighs that of looking at the others

    def __call__(self, features: Sequence[Feature]) -> Batch:
        """input_ids, position_ids and labels, each int64 [packed rows, longest]; and the number of real tokens."""
        lengths = [len(each["input_ids"]) for each in features]
        rows = balanced(lengths, max(self.max_length, *lengths), self.hidden_size)
        width = max(sum(lengths[document] for document in row) for row in rows)
        batch = _filled(len(rows), width, input_ids=self.pad_id, position_ids=0, labels=IGNORED)
        for number, row in enumerate(rows):
            at = 0
            for document in row:
                _lay(batch, number, at, features[document])
                batch["position_ids"][number, at : at + lengths[document]] = torch.arange(lengths[document])
                at += lengths[document]
            batch["position_ids"][number, at:] = torch.arange(width - at)
        return {**batch, REAL_TOKENS: sum(lengths)}


def balanced(lengths: Sequence[int], capacity: int, hidden_size: int = 4096) -> list[list[int]]:
    """Documents, by index, in rows of at most `capacity`, about equally long, that cost least.

    A token costs about 24 hidden_size² operations in a layer, and 4 hidden_size more for each position of its row.
    """

    def cost(rows: list[list[int]]) -> int:
        width = max(sum(lengths[document] for document in row) for row in rows)
        return len(rows) * width * (6 * hidden_size + width)

    counts = range(-(-sum(lengths) // capacity), len(lengths) + 1)
    return min((rows for count in counts if (rows := _into(count, lengths, capacity))), key=cost)


def _into(count: int, lengths: Sequence[int], capacity: int) -> list[list[int]] | None:
    """The longest first, each onto the row that is shortest so far; None where one gets too long."""
    rows: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(count)]
    for document in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        size, number, row = heapq.heappop(rows)
        if size + lengths[document] > capacity:
            return None
        heapq.heappush(rows, (size + lengths[document], number, [*row, document]))
    return [sorted(row) for _, _, row in sorted(rows, key=lambda each: each[1])]


def _filled(rows: int, width: int, **values: int) -> Batch:
    return {name: torch.full((rows, width), value, dtype=torch.int64) for name, value in values.items()}


def _lay(batch: Batch, row: int, at: int, feature: Feature) -> None:
    size = len(feature["input_ids"])
    for name in ("input_ids", "labels"):
        batch[name][row, at : at + size] = torch.from_numpy(np.array(feature[name], dtype=np.int64))
    batch["labels"][row, at] = IGNORED  # nothing of its document predicts the first token


@dataclass(frozen=True)
class Verdict:
    """Whether a model keeps packed documents apart, and by how much the loss of a token differs at most."""

    exact: bool
    difference: float
    why: str


def probe(model: Any) -> Verdict:
    """Compares short random documents packed and apart, on the model's own device and in its own precision."""
    was_training = model.training
    model.eval()
    try:
        return _compared(model)
    except Exception as error:  # a model that takes no position_ids raises what it likes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Verdict(False, float("nan"), f"the model does not take rows laid end to end ({reason})")
    finally:
        model.train(was_training)


def _compared(model: Any) -> Verdict:
    documents = _documents(model)
    apart = torch.cat([_losses(model, each[None], torch.arange(len(each))[None])[0, 1:] for each in documents])
    batch = PackedBatches(pad_id=0, max_length=_PROBE_ROW)(
        [{"input_ids": each.tolist(), "labels": each.tolist()} for each in documents]
    )
    packed = _of_documents(_losses(model, batch["input_ids"], batch["position_ids"]), documents)
    as_one = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    leaked = _of_documents(_losses(model, batch["input_ids"], as_one), documents)
    difference, leak = (packed - apart).abs(), (leaked - apart).abs()
    worst = float(difference.max())
    exact = float(difference.mean()) < _OF_A_LEAK * float(leak.mean()) and (_is_rounded(model) or worst < _EXACT)
    why = f"rows laid end to end would see each other in this model (a token's loss would differ by {worst:.2g})"
    return Verdict(exact, worst, "" if exact else why)


def _documents(model: Any) -> list[torch.Tensor]:
    vocabulary = model.get_input_embeddings().num_embeddings
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (length,), generator=draw) for length in _PROBE]


@torch.no_grad()
def _losses(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The loss of each token, float32 [rows, tokens]; of a row's first it is 0."""
    ids, positions = ids.to(model.device), positions.to(model.device)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return torch.nn.functional.pad(losses, (1, 0)).cpu()


def _of_documents(losses: torch.Tensor, documents: Sequence[torch.Tensor]) -> torch.Tensor:
    """The losses of the documents' tokens but the first, in the documents' order."""
    rows = balanced([len(each) for each in documents], _PROBE_ROW)
    found: dict[int, torch.Tensor] = {}
    for number, row in enumerate(rows):
        at = 0
        for document in row:
            found[document] = losses[number, at + 1 : at + len(documents[document])]
            at += len(documents[document])
    return torch.cat([found[document] for document in range(len(documents))])


def _is_rounded(model: Any) -> bool:
    return any(each.dtype in (torch.bfloat16, torch.float16) for each in model.parameters())
