"""How causal language models answer and are scored: each token from those before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy, pad

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.inference.speaker import Speaker

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dimba.trainers.data.packing import Batch

make_speaker = Speaker


def losses(speaker: Speaker, inputs: Batch, *, greedy: bool) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """(the losses in nats of all trained tokens of a padded batch, whether each is the likeliest, their number by row).

    Without `greedy` none is compared with the likeliest.
    """
    ids, mask, labels = (inputs[name] for name in ("input_ids", "attention_mask", "labels"))
    targets = pad(labels[:, 1:], (0, 1), value=IGNORED)
    wanted = targets != IGNORED
    with speaker.without_adapter(), _head_over(speaker.base, wanted):
        logits = speaker.loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    trained = logits[0] if logits.shape[:2] == (1, int(wanted.sum())) else logits[wanted]
    right = targets[wanted].to(trained.device)
    found = cross_entropy(trained.float(), right, reduction="none").double()
    likeliest = trained.argmax(-1) == right if greedy else right.new_zeros(len(right), dtype=torch.bool)
    return found, likeliest, wanted.sum(1).tolist()


class _head_over:  # a context manager
    """Passes the positions of `wanted` alone to the output head, as one row: the others' logits are not used."""

    def __init__(self, model: PreTrainedModel, wanted: torch.Tensor) -> None:
        self._head, self._wanted, self._handle = model.get_output_embeddings(), wanted, None

    def __enter__(self) -> None:
        self._handle = self._head.register_forward_pre_hook(self._limit)

    def __exit__(self, *_: object) -> None:
        if self._handle:
            self._handle.remove()

    def _limit(self, _module: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(given) != 1 or given[0].shape[:2] != self._wanted.shape:
            return None
        return (given[0][self._wanted.to(given[0].device)][None],)
