"""A loaded model as lm-eval asks it: with its adapter, its chat template and its end tokens, as training left them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import StoppingCriteria

from dimba.common.inference import Prompt, Sampling
from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.inference.scoring import Piece, batch_size_for, piece_losses
from dimba.trainers.inference.speaker import Encoded, Ids
from dimba.trainers.models.gpu_errors import out_of_memory
from dimba.trainers.rewards.reasoning import split_reasoning
from dimba.trainers.tasks.prompts import TaskPrompts

if TYPE_CHECKING:
    from dimba.trainers.inference.speaker import Speaker

_MOST_TOKENS = 256  # of an answer, as lm-eval's, where a task does not name its own
Pair = tuple[Any, Ids, Ids]  # (the texts, tokens of the context, tokens of its continuation)


class SpeakerModel(TemplateLM):
    """lm-eval's model over a speaker; `cut` counts the prompts of which the context had no room for the beginning."""

    def __init__(self, speaker: Speaker, prompts: TaskPrompts, size: int, progress: Callable[[int], None]) -> None:
        super().__init__()
        self._speaker, self._prompts, self._size, self._progress = speaker, prompts, size, progress
        self.tokenizer = speaker.loaded.tokenizer
        self.cut = self.requests = 0

    @property
    def eot_token_id(self) -> int:
        """The id of the end of a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The id in front of a text without a context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """The name under which lm-eval would cache prompts."""
        return "dimba"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a chat, as training rendered it."""
        return self._prompts.render(chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> Ids:
        """The tokens of a text."""
        return self._prompts.encode(string, begins=add_special_tokens is not False)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows of the model's context."""
        limit = self._speaker.context or max(len(each.args[0]) + 1 for each in requests)
        found = []
        for (text,) in (each.args for each in requests):
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, limit - 1, 1)
            pairs = [("", *make_disjoint_window(each)) for each in windows]
            found.append(sum(each for each, _ in self._scored(pairs)))
            self._done(1)
        return found

    def _loglikelihood_tokens(self, requests: list[Pair], **_: Any) -> list[tuple[float, bool]]:
        return self._scored(requests, self._done)

    def _scored(self, pairs: Sequence[Pair], done: Callable[[int], None] = lambda _: None) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether greedy decoding gives it) of each pair."""
        found: dict[int, tuple[float, bool]] = dict.fromkeys(range(len(pairs)), (0.0, True))
        pieces = [self._piece(at, context, rest) for at, (_, context, rest) in enumerate(pairs) if rest]
        pieces.sort(key=len, reverse=True)
        while pieces:
            size = batch_size_for(self._speaker, self._size, len(pieces[0]))
            batch, pieces = pieces[:size], pieces[size:]
            for piece, loss in zip(batch, piece_losses(self._speaker, batch, greedy=True), strict=True):
                found[piece.number] = (-loss.nats, loss.is_likeliest)
            done(len(batch))
        return [found[at] for at in range(len(pairs))]

    def _piece(self, number: int, context: Ids, rest: Ids) -> Piece:
        ids = self._fitting([*context, *rest], self._speaker.context)
        trained = min(len(rest), len(ids) - 1)
        labels = [IGNORED] * (len(ids) - trained) + ids[len(ids) - trained :]
        return Piece(number, np.array(ids, dtype=np.int64), np.array(labels, dtype=np.int64))

    def _fitting(self, ids: Ids, room: int | None) -> Ids:
        """The last tokens for which there is room."""
        if not room or len(ids) <= room:
            return ids
        self.cut += 1
        return ids[-room:]

    def _done(self, count: int) -> None:
        self.requests += count
        self._progress(self.requests)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """The answers to prompts, each up to its end token or to one of the texts that the task names."""
        found: dict[int, str] = {}
        for arguments, numbers in _alike(requests):
            room = self._room(arguments["max_gen_toks"])
            prompts = [(each, self._fitting(self.tok_encode(requests[each].args[0]), room)) for each in numbers]
            prompts.sort(key=lambda each: len(each[1]), reverse=True)
            while prompts:
                batch, prompts = prompts[: self._size], prompts[self._size :]
                found.update(self._answers(batch, arguments))
                self._done(len(batch))
        return [found[at] for at in range(len(requests))]

    def _room(self, answer: int) -> int | None:
        """The tokens of a prompt beside an answer of this length, at least half of the context."""
        context = self._speaker.context
        return max(context - answer, context // 2) if context else None

    def _answers(self, batch: Sequence[tuple[int, Ids]], arguments: Mapping[str, Any]) -> Iterable[tuple[int, str]]:
        for (number, _), row in zip(batch, self._rows(batch, arguments), strict=True):
            yield number, self._text(row, arguments["until"])

    def _rows(self, batch: Sequence[tuple[int, Ids]], arguments: Mapping[str, Any]) -> list[Ids]:
        """The new tokens of each prompt, in halves where the GPU has no room for all."""
        encoded = [Encoded(Prompt(messages=(), number=number), ids, "") for number, ids in batch]
        longest, until = max(len(ids) for _, ids in batch), arguments["until"]
        stops = [_StopAtText(self.tokenizer, longest, until)] if until else []
        try:
            return self._speaker.generate(encoded, _sampling(arguments), lambda: False, stops=stops)
        except RuntimeError as error:
            if len(batch) == 1 or not out_of_memory(error):
                raise
        middle = len(batch) // 2
        return [*self._rows(batch[:middle], arguments), *self._rows(batch[middle:], arguments)]

    def _text(self, row: Ids, until: Sequence[str]) -> str:
        ends = set(self._speaker.loaded.ends)
        text = str(self.tokenizer.decode([each for each in row if each not in ends], skip_special_tokens=False))
        if self._prompts.is_chat:
            text = split_reasoning(text).answer
        return text[: min((at for each in until if (at := text.find(each)) >= 0), default=len(text))]


def _alike(requests: Sequence[Any]) -> Iterable[tuple[Mapping[str, Any], list[int]]]:
    """The numbers of requests with the same arguments of generation."""
    groups: dict[str, tuple[Mapping[str, Any], list[int]]] = {}
    for number, request in enumerate(requests):
        arguments: Any = normalize_gen_kwargs(request.args[1], _MOST_TOKENS)
        arguments["until"] = [str(each) for each in arguments["until"] if each]
        groups.setdefault(repr(sorted(arguments.items())), (arguments, []))[1].append(number)
    return groups.values()


def _sampling(arguments: Mapping[str, Any]) -> Sampling:
    return Sampling(
        temperature=float(arguments.get("temperature") or 0.0) if arguments.get("do_sample") else 0.0,
        top_p=float(arguments.get("top_p") or 1.0),
        top_k=int(arguments.get("top_k") or 0),
        max_new_tokens=arguments["max_gen_toks"],
    )


class _StopAtText(StoppingCriteria):
    """Ends a row once one of the texts stands in what is new of it."""

    def __init__(self, tokenizer: Any, start: int, texts: Sequence[str]) -> None:
        self._tokenizer, self._start, self._texts = tokenizer, start, texts
        self._tail = 4 * max(map(len, texts)) + 4  # tokens: a character has four of them at most
        self._ended: set[int] = set()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Takes ids [rows, tokens]; returns which rows have ended [rows]."""
        first = max(self._start, input_ids.shape[1] - self._tail)
        for row in set(range(len(input_ids))) - self._ended:
            text = self._tokenizer.decode(input_ids[row, first:].tolist(), skip_special_tokens=False)
            if any(each in text for each in self._texts):
                self._ended.add(row)
        return torch.tensor([row in self._ended for row in range(len(input_ids))], device=input_ids.device)
