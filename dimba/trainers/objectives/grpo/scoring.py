"""A reward model that scores complete chats."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dimba.common.contract import absolute
from dimba.common.errors import BadInput, first_line
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.data.chat import prepare_tokenizer
from dimba.trainers.data.prompt_rendering import chat_ids
from dimba.trainers.models.loading import Compute, load_classifier, load_tokenizer
from dimba.trainers.objectives.grpo.evaluation import Chat

_BATCH = 16  # chats
_FLAG = "--reward-model"
_HINT = "give another --reward-model, or leave it out to train one on the pairs"


class Scorer:
    """Scores chats with a model that has one output; chats are cut at `max_length` tokens."""

    def __init__(
        self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int
    ) -> None:
        self._model, self._tokenizer, self._max_length = model.eval(), tokenizer, max_length
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id  # by which it finds the last token

    def __call__(self, chats: Sequence[Chat]) -> list[float]:
        """The score of each chat."""
        ids = [each[: self._max_length] for each in chat_ids(self._tokenizer, chats)]
        by_length = sorted(range(len(ids)), key=lambda at: -len(ids[at]))  # a batch then has little padding
        scores = [0.0] * len(ids)
        for start in range(0, len(by_length), _BATCH):
            batch = by_length[start : start + _BATCH]
            for at, score in zip(batch, self._score([ids[at] for at in batch]), strict=True):
                scores[at] = score
        return scores

    def _score(self, ids: list[list[int]]) -> list[float]:
        inputs = self._tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**inputs.to(self._model.device)).logits[:, 0]
        return [float(score) for score in logits]


def load_scorer(checkpoint: str, options: GrpoOptions, tokenizer: PreTrainedTokenizerBase, compute: Compute) -> Scorer:
    """A reward model from a folder or the Hub: a model with its own tokenizer, or an adapter on the base.

    Raises:
        BadInput: it cannot be loaded, or does not have exactly one output.
    """
    if (Path(checkpoint) / "adapter_config.json").is_file():
        model = _load_adapter(checkpoint, options, compute)
    else:
        tokenizer = load_tokenizer(checkpoint, flag=_FLAG, code=options.trust_remote_code)
        prepare_tokenizer(tokenizer)
        model = load_classifier(checkpoint, options, compute, flag=_FLAG)
    return Scorer(_on_device(model, compute), tokenizer, max_length=options.max_length)


def _load_adapter(checkpoint: str, options: GrpoOptions, compute: Compute) -> PeftModel:
    _check_adapter(Path(checkpoint), options)
    base = load_classifier(options.base_checkpoint, options, compute)
    try:
        with new_head_expected():
            return PeftModel.from_pretrained(base, checkpoint)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"{checkpoint}: {first_line(error)}", _HINT, key=_FLAG) from error


def _check_adapter(folder: Path, options: GrpoOptions) -> None:
    path = folder / "adapter_config.json"
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: {error}", _HINT, key=_FLAG) from error
    if not options.allow_pickle and not (folder / "adapter_model.safetensors").is_file():
        raise BadInput(f"{folder} has no adapter_model.safetensors", _HINT, key=_FLAG)
    if config.get("task_type") != "SEQ_CLS":
        raise BadInput(f"{folder} is an adapter without a reward head", _HINT, key=_FLAG)
    _check_base(folder, str(config.get("base_model_name_or_path") or options.base_checkpoint), options.base_checkpoint)


def _check_base(folder: Path, base: str, ours: str) -> None:
    if base != ours and absolute(base) != absolute(ours):
        raise BadInput(f"{folder} is an adapter on {base}", f"use it with --base-checkpoint {base}", key=_FLAG)


def _on_device(model: PreTrainedModel | PeftModel, compute: Compute) -> PreTrainedModel | PeftModel:
    return model if compute.on_cpu or hasattr(model, "hf_device_map") else model.to("cuda")


@contextmanager
def new_head_expected() -> Iterator[None]:
    """Silences the library's warning about a new head."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
