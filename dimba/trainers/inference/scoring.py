"""The losses of rows, encoded as training would encode them, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from dimba.common.errors import BadInput, Location, RunFailed, UnusableRow
from dimba.common.inference import RowLoss, Scoring
from dimba.dataset.samples import Sample
from dimba.trainers.data.chat import ChatEncoder, TrainOn
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.packing import collate_padded
from dimba.trainers.data.render import Unmaskable
from dimba.trainers.data.selection import pieces_of_long_row
from dimba.trainers.data.tokenization import without_loss
from dimba.trainers.inference.loading import answering
from dimba.trainers.models.gpu_errors import out_of_memory

if TYPE_CHECKING:
    from dimba.trainers.inference.speaker import IsStopped, Speaker

_AT_ONCE = 1 << 28  # logits of a batch: 1 GiB in float32


@dataclass(frozen=True)
class Piece:
    """A row that is scored, or a part of one, as int32 [tokens]; it ends behind its last trained token."""

    number: int
    input_ids: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.input_ids)


class PieceLoss(NamedTuple):
    """The loss of a piece in nats, its trained tokens, and whether each of them is the likeliest, if that was asked."""

    nats: float
    tokens: int
    is_likeliest: bool


def score_all(
    speaker: Speaker, rows: Sequence[tuple[int, Sample]], scoring: Scoring, is_stopped: IsStopped
) -> Iterator[RowLoss]:
    """The loss of every row, in any order; a row that would not be trained has its `error`."""
    found = _Rows(speaker, scoring)
    yield from found.encode(rows)
    pieces = sorted(found.pieces, key=len, reverse=True)
    while pieces and not is_stopped():
        size = batch_size_for(speaker, scoring.batch_size, len(pieces[0]))
        batch, pieces = pieces[:size], pieces[size:]
        yield from found.complete(batch, piece_losses(speaker, batch))


class _Rows:
    """Rows as pieces, and their losses so far."""

    def __init__(self, speaker: Speaker, scoring: Scoring) -> None:
        loaded, self._scoring = speaker.loaded, scoring
        self._encoder = ChatEncoder(
            loaded.tokenizer, train_on=cast(TrainOn, scoring.train_on), settings=loaded.settings
        )
        limits = [each for each in (scoring.max_length, speaker.context) if each]
        self._limit = min(limits) if limits else None
        self.pieces: list[Piece] = []
        self._open: dict[int, list[float]] = {}  # losses by row
        self._left: dict[int, int] = {}  # pieces without a loss by row
        self._cut: dict[int, int] = {}
        self._tokens: dict[int, int] = {}

    def encode(self, rows: Iterable[tuple[int, Sample]]) -> Iterator[RowLoss]:
        """Finds the pieces; yields the rows that have none, with the reason."""
        rendered = []
        for number, sample in rows:
            try:
                rendered.append((number, self._encoder.render(sample, Location("row", number + 1))))
            except BadInput as error:
                yield RowLoss(number=number, error=error.detail)
        examples = self._encoder.encode_batch([each for _, each in rendered])
        for (number, _), example in zip(rendered, examples, strict=True):
            if problem := self._problem(example) or self._add(number, cast(Example, example)):
                yield RowLoss(number=number, error=problem)

    def _problem(self, example: Example | Unmaskable) -> str:
        return example.cause if isinstance(example, UnusableRow) else without_loss([example])

    def _add(self, number: int, example: Example) -> str:
        length, limit, labels = len(example.input_ids), self._limit, example.labels()
        spans = [(0, length)]
        if limit and length > limit:
            spans = pieces_of_long_row(example.trained, limit, self._scoring.on_long or "truncate")
        if not spans:
            return f"no trained token within {limit:,} tokens"
        for start, end in spans:
            last = start + int(example.trained[start:end].nonzero()[0][-1]) + 1  # what follows changes nothing
            self.pieces.append(Piece(number, example.input_ids[start:last], labels[start:last]))
        self._open[number], self._left[number], self._tokens[number] = [], len(spans), 0
        self._cut[number] = max(0, length - spans[-1][1])
        return ""

    def complete(self, batch: Sequence[Piece], losses: Sequence[PieceLoss]) -> Iterator[RowLoss]:
        """Adds the losses of pieces; yields the rows that have all of theirs."""
        for piece, loss in zip(batch, losses, strict=True):
            number = piece.number
            self._open[number].append(loss.nats)
            self._tokens[number] += loss.tokens
            self._left[number] -= 1
            if not self._left[number]:
                total = sum(self._open.pop(number))
                yield RowLoss(number=number, nats=total, tokens=self._tokens[number], cut=self._cut[number])


def batch_size_for(speaker: Speaker, size: int, longest: int) -> int:
    """The pieces of up to `longest` tokens that are scored at once, `size` at most."""
    vocabulary = speaker.base.config.get_text_config().vocab_size
    return max(1, min(size, _AT_ONCE // (longest * vocabulary)))


def piece_losses(speaker: Speaker, batch: Sequence[Piece], *, greedy: bool = False) -> list[PieceLoss]:
    """The loss of each piece, in halves where the GPU has no room for all; `greedy`: also whether it is likeliest."""
    try:
        return _at_once(speaker, batch, greedy)
    except RuntimeError as error:
        if len(batch) == 1 or not out_of_memory(error):
            raise
    middle = len(batch) // 2
    halves = (batch[:middle], batch[middle:])
    return [loss for half in halves for loss in piece_losses(speaker, half, greedy=greedy)]


@torch.inference_mode()
def _at_once(speaker: Speaker, batch: Sequence[Piece], greedy: bool) -> list[PieceLoss]:
    features = [{"input_ids": each.input_ids, "labels": each.labels} for each in batch]
    inputs = collate_padded(features, pad_id=speaker.loaded.tokenizer.pad_token_id)
    device = speaker.base.get_input_embeddings().weight.device
    placed = {name: inputs[name].to(device) for name in ("input_ids", "attention_mask", "labels")}
    losses, likeliest, counts = answering(speaker.family).losses(speaker, placed, greedy=greedy)
    if losses.isnan().any():
        raise RunFailed("the model's logits are not numbers (NaN)", "`dimba logs` shows where training lost them")
    parts = zip(losses.cpu().split(counts), likeliest.cpu().split(counts), strict=True)
    return [PieceLoss(float(part.sum()), len(part), bool(each.all())) for part, each in parts]
