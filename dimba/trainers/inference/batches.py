"""Many prompts in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dimba.common.errors import BadInput, Location
from dimba.common.inference import REFUSED, Answer, Prompt, Sampling
from dimba.trainers.models.gpu_errors import out_of_memory

if TYPE_CHECKING:
    from dimba.trainers.inference.speaker import Encoded, IsStopped, Speaker


def answer_all(
    speaker: Speaker, prompts: Sequence[Prompt], sampling: Sampling, size: int, is_stopped: IsStopped
) -> Iterator[Answer]:
    """The answers of all prompts, batch by batch; a prompt that cannot be answered has its `error`.

    Batches hold prompts of similar length, so the order differs from that of the prompts: `Answer.number` names them.
    """
    encoded: list[Encoded] = []
    for prompt in prompts:
        try:
            encoded.append(speaker.encode(prompt, Location("row", prompt.number + 1)))
        except BadInput as error:
            yield Answer(text="", finish=REFUSED, number=prompt.number, error=error.detail)
    encoded.sort(key=lambda each: len(each.ids))
    while encoded and not is_stopped():
        batch, encoded = encoded[:size], encoded[size:]
        yield from _halved(speaker, batch, sampling, is_stopped)


def _halved(speaker: Speaker, batch: list[Encoded], sampling: Sampling, is_stopped: IsStopped) -> Iterator[Answer]:
    """The answers of a batch, in halves where the GPU has no room for all of it."""
    try:
        answers = list(speaker.answers(batch, sampling, is_stopped))
    except RuntimeError as error:
        if len(batch) == 1 or not out_of_memory(error):
            raise
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            yield from _halved(speaker, half, sampling, is_stopped)
        return
    if not is_stopped():  # an answer that was cut short is no answer
        yield from answers
