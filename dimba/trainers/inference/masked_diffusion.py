"""How masked-diffusion models answer and are scored: by blocks of masked tokens, and by an upper bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from dimba.common.errors import BadInput, RunFailed
from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.inference.speaker import Encoded, Ids, IsStopped, Speaker
from dimba.trainers.models.masked_diffusion.answers import Rows
from dimba.trainers.models.masked_diffusion.forward import mask_id
from dimba.trainers.models.masked_diffusion.noise import TAIL
from dimba.trainers.models.masked_diffusion.sampler import Unmasking, sample
from dimba.trainers.models.masked_diffusion.scoring import add_scoring, bounds

if TYPE_CHECKING:
    from dimba.common.inference import Sampling
    from dimba.trainers.data.packing import Batch

_BLOCK = 32  # tokens, as many as training masks behind an answer
_MOST = 8192  # tokens of an answer, each step of which reads all that are there


class MaskedSpeaker(Speaker):
    """Answers as `Speaker` does, a block of masked tokens after the other."""

    def _prepare(self) -> None:
        super()._prepare()
        if not self.as_base:  # it shares the model of one that is prepared
            add_scoring(self.base)

    def require(self, sampling: Sampling) -> None:
        """Also raises BadInput for an answer without a limit."""
        super().require(sampling)
        if sampling.max_new_tokens > _MOST:
            problem = f"a masked-diffusion model answers with {_MOST:,} tokens at most, not {sampling.max_new_tokens:,}"
            raise BadInput(problem, "limit the answer, such as `--max-new-tokens 512`")

    @torch.inference_mode()
    def generate(
        self, batch: Sequence[Encoded], sampling: Sampling, is_stopped: IsStopped, *, streamer: Any = None, **_: Any
    ) -> list[Ids]:
        """The new tokens of each prompt, up to an end token."""
        longest = max(len(each.ids) for each in batch)
        room = self.context - longest if self.context else sampling.max_new_tokens
        how = _unmasking(sampling, max(1, min(sampling.max_new_tokens, room)))
        with self.without_adapter():
            found = sample(
                self.loaded.model,
                [each.ids for each in batch],
                how,
                ends=self.loaded.ends,
                pad_id=self.loaded.tokenizer.pad_token_id,
                numbers=[each.prompt.number for each in batch],
                is_stopped=is_stopped,
                on_step=_streamed(streamer, batch[0].ids) if streamer else None,
            )
        if found.first_logits.isnan().any():
            raise RunFailed("the model's logits are not numbers (NaN)", "`dimba logs` shows where training lost them")
        if streamer:
            streamer.end()
        return found.tokens


def _unmasking(sampling: Sampling, new_tokens: int) -> Unmasking:
    block = sampling.block_length or _BLOCK
    return Unmasking(
        new_tokens=new_tokens,
        block=block,
        steps=sampling.diffusion_steps or block,
        temperature=sampling.temperature,
        guidance=sampling.guidance or 0.0,
        seed=sampling.seed,
    )


def _streamed(streamer: Any, prompt: Ids) -> Callable[[list[Ids]], None]:
    """Passes on what has joined the beginning of the one answer, in front of its first masked token."""
    streamer.put(torch.tensor([prompt]))
    sent = 0

    def step(answers: list[Ids]) -> None:
        nonlocal sent
        new, sent = answers[0][sent:], len(answers[0])
        if new:
            streamer.put(torch.tensor(new))

    return step


make_speaker = MaskedSpeaker


def losses(speaker: Speaker, inputs: Batch, *, greedy: bool) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """(the bounds on the losses in nats of all trained tokens of a padded batch, none as the likeliest, their number).

    They are those of training's evaluation: from masks that a row's own tokens determine, with masked tokens behind an
    answer, as there are when the model is asked. The bound of a row is spread over its tokens; which of them would be
    the likeliest (`greedy`) depends on the order in which they are filled in.
    """
    rows = Rows(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
    counts = (inputs["labels"] != IGNORED).sum(dim=1)
    total = torch.zeros(len(counts), dtype=torch.float64, device=counts.device)
    with speaker.without_adapter():
        for cut in rows.all(max(rows.counts, default=0)):
            tails, most = [TAIL // 2] * len(cut.ids), speaker.context or cut.ids.shape[1] + TAIL
            answers = cut.with_tails(tails, most, mask_id(speaker.base))
            total += bounds(speaker.loaded.model, speaker.base, answers)
    found = (total / counts.clamp(min=1)).repeat_interleave(counts)
    return found, torch.zeros_like(found, dtype=torch.bool), counts.tolist()
