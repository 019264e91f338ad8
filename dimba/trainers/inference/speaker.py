"""A loaded model that answers prompts: rendered and tokenised as in training, ended by the tokens of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from dimba.common.errors import BadInput, Location
from dimba.common.inference import END, LENGTH, STOPPED, Answer, Prompt, Sampling
from dimba.dataset.formats import Sample
from dimba.objectives.family import Family
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.data.encoding import Example
from dimba.trainers.inference.calls import PartsWithoutCalls, format_for
from dimba.trainers.inference.drawing import processors
from dimba.trainers.inference.streaming import TextStream
from dimba.trainers.models.families import family_of_model
from dimba.trainers.models.trained import Loaded
from dimba.trainers.rewards.reasoning import opening_of, split_reasoning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = list[int]
IsStopped = Callable[[], bool]


@dataclass(frozen=True)
class Encoded:
    """A prompt as token ids; `opening` is the mark of reasoning that it ends in."""

    prompt: Prompt
    ids: Ids
    opening: str


class _Stop(StoppingCriteria):
    def __init__(self, is_stopped: IsStopped) -> None:
        self._is_stopped = is_stopped

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._is_stopped(), dtype=torch.bool, device=input_ids.device)


@dataclass
class Speaker:
    """A model with its tokenizer; `as_base`: without its adapter, where that can be switched off."""

    loaded: Loaded
    as_base: bool = False
    _encoder: ChatEncoder = field(init=False)

    def __post_init__(self) -> None:
        self._encoder = ChatEncoder(self.loaded.tokenizer, settings=self.loaded.settings)
        self._prepare()

    @property
    def family(self) -> Family:
        """The model's family, which decides how it answers and is scored."""
        return family_of_model(self.base)

    def require(self, sampling: Sampling) -> None:
        """Raises BadInput for a value that the model's family does not sample with."""
        if flag := self.family.refused_sampling(sampling):
            raise BadInput(f"the model is {self.family.label}, which does not sample with it", "leave it out", key=flag)

    def _prepare(self) -> None:
        self.base.generation_config = GenerationConfig()  # its beams and penalties would be added to ours

    @property
    def base(self) -> PreTrainedModel:
        """The model without the adapter's wrapping."""
        model: Any = self.loaded.model
        return model.get_base_model() if hasattr(model, "peft_config") else model

    @property
    def context(self) -> int | None:
        """The tokens that the model was made for; None if its configuration does not name them."""
        value = getattr(self.base.config.get_text_config(), "max_position_embeddings", None)
        return value if isinstance(value, int) else None

    def encode(self, prompt: Prompt, where: Location) -> Encoded:
        """The prompt with the generation prompt behind it, as training would have tokenised it; raises BadInput."""
        if prompt.text is not None:
            return self._encode_text(prompt, where)
        arguments = {**self.loaded.settings.arguments, **prompt.arguments}
        sample = Sample(
            messages=tuple(dict(each) for each in prompt.messages),
            trained=(False,) * len(prompt.messages),
            tools=prompt.tools,
            arguments=arguments,
        )
        rendered = self._encoder.render_prompt(sample, where)
        [example] = self._encoder.encode_batch([rendered])
        assert isinstance(example, Example), "without spans every text has tokens"
        return Encoded(prompt, self._fitting(list(map(int, example.input_ids))), opening_of(rendered.text))

    def _encode_text(self, prompt: Prompt, where: Location) -> Encoded:
        rendered = self._encoder.render(Sample(text=prompt.text), where)
        [example] = self._encoder.encode_batch([rendered])
        assert isinstance(example, Example), "every text has tokens"
        return Encoded(prompt, self._fitting(list(map(int, example.input_ids[:-1]))), "")  # without the end token

    def _fitting(self, ids: Ids) -> Ids:
        if self.context and len(ids) >= self.context:
            problem = f"the conversation has {len(ids):,} tokens, and the model's context is {self.context:,}"
            raise BadInput(problem, "shorten it, or begin a new one")
        return ids

    def stream(
        self, encoded: Encoded, sampling: Sampling, on_part: Callable[[str, str], None], is_stopped: IsStopped
    ) -> Answer:
        """The answer, whose parts go to `on_part` (kind, text) as they come."""
        form = format_for(self.loaded, encoded.prompt)
        parts = PartsWithoutCalls(form, on_part) if form else None
        shown = parts.part if parts else on_part
        stream = TextStream(self.loaded.tokenizer, set(self.loaded.ends), shown, opening=encoded.opening)
        started = time.monotonic()
        new = self.generate([encoded], sampling, is_stopped, streamer=stream)[0]
        seconds = time.monotonic() - started
        first = (stream.first or time.monotonic()) - started
        answer = self._answer(encoded, new, is_stopped(), seconds=seconds, first_token_seconds=first)
        if not form or not parts:
            return answer
        text, calls = form.parse(answer.text)
        parts.end(calls)
        return replace(answer, text=text, calls=tuple(calls))

    def answers(self, batch: Sequence[Encoded], sampling: Sampling, is_stopped: IsStopped) -> Iterator[Answer]:
        """The answers of a batch, in its order."""
        started = time.monotonic()
        rows = self.generate(batch, sampling, is_stopped)
        seconds = (time.monotonic() - started) / len(batch)
        for encoded, new in zip(batch, rows, strict=True):
            yield self._answer(encoded, new, is_stopped(), seconds=seconds)

    @torch.inference_mode()
    def generate(
        self,
        batch: Sequence[Encoded],
        sampling: Sampling,
        is_stopped: IsStopped,
        *,
        streamer: Any = None,
        stops: Sequence[StoppingCriteria] = (),
    ) -> list[Ids]:
        """The new tokens of each prompt, up to an end token; `stops` end them earlier."""
        tokenizer, longest = self.loaded.tokenizer, max(len(each.ids) for each in batch)
        rows = [[tokenizer.pad_token_id] * (longest - len(each.ids)) + each.ids for each in batch]
        mask = [[0] * (longest - len(each.ids)) + [1] * len(each.ids) for each in batch]
        room = self.context - longest if self.context else sampling.max_new_tokens
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=min(sampling.max_new_tokens, max(room, 1)),
            eos_token_id=list(self.loaded.ends),
            pad_token_id=tokenizer.pad_token_id,
        )
        device = self.base.get_input_embeddings().weight.device
        with self.without_adapter():
            output = self.loaded.model.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                logits_processor=processors(sampling, [each.prompt.number for each in batch]),
                stopping_criteria=StoppingCriteriaList([_Stop(is_stopped), *stops]),
                streamer=streamer,
            )
        return [self._until_end(row) for row in output[:, longest:].tolist()]

    def without_adapter(self) -> AbstractContextManager[Any]:
        """A block in which the model is the base, if this speaker is."""
        model: Any = self.loaded.model
        return model.disable_adapter() if self.as_base else nullcontext()

    def _until_end(self, ids: Ids) -> Ids:
        return ids[: next((place + 1 for place, each in enumerate(ids) if each in self.loaded.ends), len(ids))]

    def _answer(
        self, encoded: Encoded, new: Ids, was_stopped: bool, *, seconds: float, first_token_seconds: float = 0.0
    ) -> Answer:
        has_ended = bool(new) and new[-1] in self.loaded.ends
        text = self.loaded.tokenizer.decode(new[:-1] if has_ended else new, skip_special_tokens=False)
        split = split_reasoning(encoded.opening + text)
        return Answer(
            text=split.answer,
            reasoning=split.reasoning,
            finish=END if has_ended else STOPPED if was_stopped else LENGTH,
            prompt_tokens=len(encoded.ids),
            tokens=len(new),
            number=encoded.prompt.number,
            seconds=seconds,
            first_token_seconds=first_token_seconds,
        )
