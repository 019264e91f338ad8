"""Loads what a run has saved: a model, or an adapter on its base, with its tokenizer and the ends of its turns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dimba.common.contract import absolute, is_path
from dimba.common.errors import BadInput, Location, first_line
from dimba.common.trained import TrainedModel
from dimba.dataset.formats import Sample
from dimba.trainers.data.chat import ChatEncoder, prepare_tokenizer
from dimba.trainers.data.render import TemplateSettings
from dimba.trainers.models.families import auto_class, family_at, half_of
from dimba.trainers.models.loading import load_tokenizer, nf4
from dimba.trainers.models.pretrained import load_complete
from dimba.trainers.models.saved_model import stored_names
from dimba.trainers.models.text_part import complete_names
from dimba.trainers.models.vocabulary import add_rows, untie

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

_FLAG = "the model"
_ANOTHER_BASE = "give the base that it was trained on with `--base`"
_PROBE = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})


@dataclass(frozen=True)
class Loading:
    """Where and in which precision a model is loaded; `device_map` is transformers'."""

    dtype: torch.dtype | str = torch.float32  # "auto": as the files have it
    device_map: str | dict[str, str | int] | None = None


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, its tokenizer with a chat template, and the ids of the tokens that end a turn."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    ends: tuple[int, ...]
    settings: TemplateSettings


def load_trained(trained: TrainedModel, loading: Loading) -> Loaded:
    """The model as it was after training: with its adapter (not merged), added rows, template and end tokens.

    Raises:
        BadInput: a file is missing or broken, or the adapter does not fit its base.
    """
    if trained.gguf:
        raise BadInput("is a GGUF file, which llama.cpp alone runs", f"give {trained.folder}", file=trained.gguf)
    tokenizer = trained_tokenizer(trained)
    place = trained.base or trained.folder
    model = load_complete(auto_class(family_at(place)), place, _FLAG, **_settings(trained, loading))
    complete_names(model)
    if trained.is_adapter:
        untie(model)
        add_rows(model, tokenizer)
        model = _with_adapter(model, trained.folder)
    half_of(model).name_tokens(model, tokenizer, trained)
    settings = TemplateSettings.of(trained)
    ends = end_tokens(tokenizer, getattr(model, "generation_config", None), settings)
    return Loaded(model.eval().requires_grad_(False), tokenizer, ends, settings)


def trained_tokenizer(trained: TrainedModel) -> PreTrainedTokenizerFast:
    """The tokenizer as it was after training."""
    tokenizer = load_tokenizer(_tokenizer_place(trained), _FLAG, code=trained.trust_remote_code)
    prepare_tokenizer(tokenizer)
    return tokenizer


def end_tokens(
    tokenizer: PreTrainedTokenizerFast, generation: GenerationConfig | None, settings: TemplateSettings
) -> tuple[int, ...]:
    """The ids at which generation stops: the tokenizer's, the generation config's and those that end a trained turn."""
    known = getattr(generation, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])}
    ids |= {tokenizer.convert_tokens_to_ids(end) for end in _turn_ends(tokenizer, settings)}
    return tuple(sorted(ids - {None, tokenizer.unk_token_id}))


def _turn_ends(tokenizer: PreTrainedTokenizerFast, settings: TemplateSettings) -> list[str]:
    """The tokens that end an assistant's turn in the template; empty if a probe does not show it."""
    encoder = ChatEncoder(tokenizer, settings=settings)
    try:
        encoder.render(Sample(messages=_PROBE, trained=(False, True)), Location("the chat template"))
    except BadInput:
        return []
    return list(encoder.turn_ends)


def _tokenizer_place(trained: TrainedModel) -> str:
    """The folder if it has a tokenizer, else the base: adapters of other tools may lack one."""
    has_own = not is_path(trained.folder) or (absolute(trained.folder) / "tokenizer_config.json").is_file()
    return trained.folder if has_own or not trained.base else trained.base


def _settings(trained: TrainedModel, loading: Loading) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "dtype": loading.dtype,
        "device_map": loading.device_map,
        "use_safetensors": None if trained.allow_pickle else True,
        "trust_remote_code": trained.trust_remote_code,
    }
    if trained.four_bit:
        settings |= {"quantization_config": nf4(loading.dtype), "device_map": loading.device_map or {"": "cpu"}}
    return settings


def _with_adapter(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    from peft import PeftModel  # two seconds, which a complete model does not need

    place = str(absolute(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # the comparison below names them
            adapted = PeftModel.from_pretrained(model, place)
        problem = _mismatch(adapted, place)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        problem = first_line(error)
    if problem:
        raise BadInput(f"{folder}: the adapter does not fit its base: {problem}", _ANOTHER_BASE)
    return adapted


def _mismatch(model: PreTrainedModel, folder: str) -> str:
    """The names of weights that are only in the model or only in the adapter's files: peft loads what fits in silence.

    An embedding or a head in the files, which peft saves where training added rows, is a weight of the model.
    """
    from peft import get_peft_model_state_dict, load_peft_weights  # as above

    ours = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    theirs = load_peft_weights(folder, device="cpu").keys()
    for kind, names in (("missing", ours - theirs), ("unexpected", theirs - ours - stored_names(model))):
        if names:
            return f"{kind} keys: {', '.join(sorted(names)[:3])}"
    return ""
