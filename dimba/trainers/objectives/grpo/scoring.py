"""A reward model that scores whole chats."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dimba.common.contract import absolute
from dimba.common.errors import BadInput
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.data.prompt_rendering import chat_ids
from dimba.trainers.models.loading import Compute, load_classifier
from dimba.trainers.objectives.grpo.verdict import Chat

_BATCH = 16  # chats that are scored at once
_FLAG = "--reward-model"
_OTHER = "give another --reward-model, or leave it out: one is trained on the pairs then"


class Scorer:
    """Scores chats with a model of one output; what is longer than `max_length` tokens is cut at its end."""

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int) -> None:
        self._model, self._tokenizer, self._max_length = model.eval(), tokenizer, max_length
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id  # how it finds the last token

    def __call__(self, chats: Sequence[Chat]) -> list[float]:
        """A score of each chat, the longest ones first, so that a batch has little padding."""
        ids = [each[: self._max_length] for each in chat_ids(self._tokenizer, chats)]
        order = sorted(range(len(ids)), key=lambda at: -len(ids[at]))
        scores = [0.0] * len(ids)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for at, score in zip(batch, self._score([ids[at] for at in batch]), strict=True):
                scores[at] = score
        return scores

    def _score(self, ids: list[list[int]]) -> list[float]:
        inputs = self._tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**inputs.to(self._model.device)).logits[:, 0]
        return [float(score) for score in logits]


def load_scorer(place: str, args: GrpoOptions, tokenizer: Any, compute: Compute) -> Scorer:
    """A reward model from a folder or the Hub: a model of its own, or an adapter on the base.

    Raises:
        BadInput: it cannot be loaded, or has not one output.
    """
    if not (Path(place) / "adapter_config.json").is_file():
        from dimba.trainers.data.chat import prepare_tokenizer
        from dimba.trainers.models.loading import load_tokenizer

        own = load_tokenizer(place, flag="--reward-model", code=args.trust_remote_code)
        prepare_tokenizer(own)
        model = load_classifier(place, args, compute, flag="--reward-model")
        return Scorer(_on_device(model, compute), own, max_length=args.max_length)
    from peft import PeftModel

    _check_adapter(Path(place), args)
    base = load_classifier(args.base_checkpoint, args, compute)
    try:
        with no_noise():
            model = PeftModel.from_pretrained(base, place)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"{place}: {str(error).strip().splitlines()[0]}", _OTHER, key=_FLAG) from error
    return Scorer(_on_device(model, compute), tokenizer, max_length=args.max_length)


def _check_adapter(folder: Path, args: GrpoOptions) -> None:
    path = folder / "adapter_config.json"
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: {error}", _OTHER, key=_FLAG) from error
    if not args.allow_pickle and not (folder / "adapter_model.safetensors").is_file():
        raise BadInput(f"{folder} has no adapter_model.safetensors", _OTHER, key=_FLAG)
    if config.get("task_type") != "SEQ_CLS":
        raise BadInput(f"{folder} is an adapter without a reward head", _OTHER, key=_FLAG)
    base = str(config.get("base_model_name_or_path") or args.base_checkpoint)
    if base != args.base_checkpoint and absolute(base) != absolute(args.base_checkpoint):
        raise BadInput(f"{folder} is an adapter on {base}", f"it needs --base-checkpoint {base}", key=_FLAG)


def _on_device(model: Any, compute: Compute) -> Any:
    return model if compute.on_cpu or hasattr(model, "hf_device_map") else model.to("cuda")


@contextmanager
def no_noise() -> Iterator[None]:
    """Without the library's remark that a head is new, which is so on purpose."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
