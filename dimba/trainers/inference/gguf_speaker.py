"""A GGUF file that answers: run by llama.cpp on the CPU, with the tokenizer and template that it was exported from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from dimba.common.inference import Sampling
from dimba.common.trained import TrainedModel
from dimba.objectives.families import CAUSAL
from dimba.objectives.family import Family
from dimba.trainers.data.render import TemplateSettings
from dimba.trainers.export.gguf.engine import LlamaModel
from dimba.trainers.inference.drawing import processors
from dimba.trainers.inference.speaker import Encoded, Ids, IsStopped, Speaker
from dimba.trainers.models.trained import Loaded, end_tokens, trained_tokenizer

_MOST_CONTEXT = 8192  # tokens: llama.cpp takes the memory for all of them at once


class GgufSpeaker(Speaker):
    """Answers as `Speaker` does, with llama.cpp's logits in place of the model's."""

    loaded: Loaded

    @classmethod
    def of(cls, trained: TrainedModel) -> GgufSpeaker:
        """The file that `trained` names; raises BadInput, HostCannot."""
        model: Any = LlamaModel(Path(trained.gguf))
        tokenizer, settings = trained_tokenizer(trained), TemplateSettings.of(trained)
        ends = {*end_tokens(tokenizer, GenerationConfig(), settings), *model.end_tokens()}
        return cls(Loaded(model, tokenizer, tuple(sorted(ends)), settings))

    @property
    def family(self) -> Family:
        """That of causal models, which llama.cpp runs."""
        return CAUSAL

    def _prepare(self) -> None:
        """There is no generation config whose settings would be added."""

    @property
    def context(self) -> int:
        """The tokens of the context that this server keeps."""
        model: Any = self.loaded.model
        return min(int(model.context), _MOST_CONTEXT)

    @torch.inference_mode()
    def generate(
        self, batch: Sequence[Encoded], sampling: Sampling, is_stopped: IsStopped, *, streamer: Any = None, **_: Any
    ) -> list[Ids]:
        """The new tokens of each prompt, up to an end token."""
        return [self._continue(each, sampling, is_stopped, streamer) for each in batch]

    def _continue(self, encoded: Encoded, sampling: Sampling, is_stopped: IsStopped, streamer: Any) -> Ids:
        model: Any = self.loaded.model
        choose, new = processors(sampling, [encoded.prompt.number]), Ids()
        room = max(min(sampling.max_new_tokens, self.context - len(encoded.ids)), 1)
        if streamer:
            streamer.put(torch.tensor([encoded.ids]))
        logits = model.begin(encoded.ids, room)
        while not is_stopped():
            scores = choose(torch.tensor([[*encoded.ids, *new]]), torch.from_numpy(logits)[None])
            new.append(int(scores.argmax()))
            if streamer:
                streamer.put(torch.tensor(new[-1:]))
            if new[-1] in self.loaded.ends or len(new) == room:
                break
            logits = model.follow(new[-1])
        if streamer:
            streamer.end()
        return new
