"""`from_pretrained` of the libraries, which raises BadInput, and accepts no weights that are not from the files."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from traceback import extract_tb, walk_tb
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from dimba.common.checkpoint.files import other_format_refusal
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.checkpoint.releases import unknown_here
from dimba.common.checkpoints import CONFIGS, asks_for_code
from dimba.common.contract import RUN_ITS_CODE, absolute, is_path, read_json_object
from dimba.common.errors import BadInput
from dimba.trainers.models.families import family_at, register
from dimba.trainers.models.finite import files_refusal, weights_refusal, zeros_note
from dimba.trainers.models.generation import repaired_generation_config
from dimba.trainers.models.loading_report import LoadingReport, unconverted_refusal
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BASE = "--base-checkpoint"
_BROKEN_WEIGHTS = (SafetensorError, UnpicklingError, EOFError)
_KERNEL_SIDES = (32, 64)  # of a block of bitsandbytes' kernel for CPUs: output, input
# What the library raises for values that it does not check, such as the name of an activation.
_BROKEN_CONFIG = (
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    StrictDataclassError,
)
_NO_HEAD = "give a trained reward model, or leave out --reward-model to train one on the pairs"


def load_complete(kind: Any, checkpoint: str, flag: str = _BASE, *, quiet: bool = False, **settings: Any) -> Any:
    """As `load`, a model whose weights are all from the files, and finite; prints what the files have beside them.

    Raises:
        BadInput: a weight would be made up, or the files have weights of another model, or values that are no numbers.
    """
    generation, changes = repaired_generation_config(checkpoint)
    replaced = {"generation_config": generation} if generation else {}
    model, info = _load_with_report(kind, checkpoint, flag, **settings, **replaced)
    report = LoadingReport.of(checkpoint, model, info)
    _refuse(checkpoint, flag, report.refusal() or _infinite(model, checkpoint, settings))
    notes = (*(f"generation config: {change}" for change in changes), report.note(), zeros_note(model))
    for note in filter(None, notes) if is_main_process() and not quiet else ():
        print(note, flush=True)
    return model


def load_scored(kind: Any, checkpoint: str, flag: str, *, has_head: bool, **settings: Any) -> Any:
    """As `load_complete`, a classifier: its head is in the files (`has_head`), or is new beside a language model's."""
    model, info = _load_with_report(kind, checkpoint, flag, **settings)
    inside = f"{model.base_model_prefix}."
    head = {name for name, _ in model.named_parameters() if not name.startswith(inside)}
    if has_head:
        _refuse_head(checkpoint, flag, LoadingReport.of(checkpoint, model, info), head)
    info["unexpected_keys"] = {name for name in info["unexpected_keys"] if name.startswith(inside)}
    report = LoadingReport.of(checkpoint, model, info, new=head)
    _refuse(checkpoint, flag, report.refusal() or _infinite(model, checkpoint, settings))
    return model


def _load_with_report(kind: Any, checkpoint: str, flag: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    # Without `ignore_mismatched_sizes` the library ends with an error that does not name the weight.
    settings |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, info = load(kind, checkpoint, flag, **settings)
    except RuntimeError as error:
        if names := _unconverted(error):
            _refuse(checkpoint, flag, unconverted_refusal(names))
        raise
    if is_sharded() and not is_main_process():  # only the first process reads the files
        info = {"missing_keys": (), "unexpected_keys": (), "mismatched_keys": ()}
    _keep_unpacked(model)
    return model, info


def _keep_unpacked(model: torch.nn.Module) -> None:
    """Keeps bitsandbytes from packing for a CPU those 4-bit weights whose sides its kernel does not divide.

    It would end with an error at the first forward pass without gradients (0.50.2, on CPUs with AVX512-BF16).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            does_not_fit = module.out_features % _KERNEL_SIDES[0] or module.in_features % _KERNEL_SIDES[1]
            module.support_avx512bf16_for_cpu &= not does_not_fit


def _unconverted(error: RuntimeError) -> list[str]:
    """The weights that the library could not make of those in the files: its error leaves them in a silent log."""
    infos = (frame.f_locals.get("loading_info") for frame, _ in walk_tb(error.__traceback__))
    return sorted({name for info in infos for name in getattr(info, "conversion_errors", None) or ()})


def _refuse(checkpoint: str, flag: str, refusal: Refusal | None) -> None:
    if refusal:
        raise BadInput(f"{checkpoint} {refusal.problem}", refusal.hint, key=flag)


def _refuse_head(checkpoint: str, flag: str, report: LoadingReport, head: set[str]) -> None:
    if others := [each for each in report.mismatched if each[0] in head]:
        name, shape, _ = others[0]
        sizes = "×".join(map(str, shape))
        raise BadInput(f"{checkpoint}: `{name}` is {sizes}; a reward model has one output", _NO_HEAD, key=flag)
    if missing := [name for name in report.missing if name in head]:
        raise BadInput(f"{checkpoint} has no reward head: `{missing[0]}` is not in its files", _NO_HEAD, key=flag)


def _infinite(model: PreTrainedModel, checkpoint: str, settings: dict[str, Any]) -> Refusal | None:
    if is_sharded() and not is_main_process():
        return None
    is_quantized_now = settings.get("quantization_config") is not None
    found = files_refusal(absolute(checkpoint)) if is_quantized_now and is_path(checkpoint) else None
    return found or weights_refusal(model)


def load(kind: Any, checkpoint: str, flag: str = _BASE, **settings: Any) -> Any:
    """`kind.from_pretrained(checkpoint)`; raises BadInput, which names `flag`."""
    if is_path(checkpoint):
        checkpoint = _local_checkpoint(Path(checkpoint).expanduser(), flag, tokenizer=kind is AutoTokenizer)
    try:
        if not settings["trust_remote_code"]:
            _refuse_code(checkpoint, flag)
        register(family_at(checkpoint))
        return kind.from_pretrained(checkpoint, **_with_installed_attention(kind, checkpoint, settings))
    except _BROKEN_WEIGHTS as error:
        hint = "copy the checkpoint again; of a Hub id, remove it from the cache first"
        raise BadInput(f"{checkpoint}: a file of its weights is broken: {error}", hint, key=flag) from error
    except (OSError, ValueError, *_BROKEN_CONFIG) as error:
        raise BadInput(f"{checkpoint} cannot be loaded: {_in_words(error)}", _hint(kind, error), key=flag) from error


def _with_installed_attention(kind: Any, checkpoint: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with PyTorch's attention where config.json asks for FlashAttention and that is not installed."""
    found = read_json_object(Path(checkpoint, "config.json"))
    parts = [found, *(each for each in found.values() if isinstance(each, dict))]
    asked = [str(part.get(name)) for part in parts for name in ("attn_implementation", "_attn_implementation")]
    has_flash = torch.cuda.is_available() and find_spec("flash_attn") is not None
    is_model = kind not in (AutoConfig, AutoTokenizer)
    if has_flash or not is_model or not any(each.startswith("flash_attention") for each in asked):
        return settings
    of_config = {name: settings[name] for name in ("num_labels", "trust_remote_code") if name in settings}
    config = AutoConfig.from_pretrained(checkpoint, **of_config)
    config._attn_implementation = settings.get("attn_implementation", "sdpa")  # the argument would not override it
    return {name: value for name, value in settings.items() if name != "num_labels"} | {"config": config}


def _hint(kind: Any, error: Exception) -> str:
    if "safetensors" in str(error):
        return "convert it with `save_pretrained`; or `--allow-pickle`, if you trust its author"
    if "does not recognize this architecture" in str(error):
        return _hint_for_type(str(error))
    if "quantization config" in str(error):
        return "correct `quantization_config` in config.json, or remove it"
    if kind is AutoTokenizer and not isinstance(error, StrictDataclassError):
        return "copy tokenizer.json and tokenizer_config.json of the same checkpoint there"
    if isinstance(error, _BROKEN_CONFIG):
        return "correct that value in config.json, or copy config.json of the same checkpoint there"
    return "check the folder's files; a Hub id needs the network, a private one HF_TOKEN"


def _hint_for_type(message: str) -> str:
    """What to do about a model type of a checkpoint on the Hub, which only the library's message names."""
    named = re.search(r"model type `([^`]+)`", message)
    found = unknown_here(named[1]) if named else None
    return found.hint if found else "use a release of transformers that knows it"


def _in_words(error: Exception) -> str:
    """The error's beginning; of one that the library did not mean for people with its kind and line as well."""
    lines = [each.strip() for each in str(error).strip().splitlines() if each.strip()] or [type(error).__name__]
    while len(lines) > 1 and lines[0].endswith(":"):
        lines[:2] = [" ".join(lines[:2])]
    if not isinstance(error, _BROKEN_CONFIG):
        return lines[0]
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[0]} ({Path(place.filename).name}:{place.lineno})"


def _local_checkpoint(path: Path, flag: str, *, tokenizer: bool) -> str:
    # The folder of an adapter has a tokenizer and no config.json.
    if not any((path / name).is_file() for name in (CONFIGS if tokenizer else CONFIGS[:1])):
        if path.exists() and (refusal := other_format_refusal(path)):
            raise BadInput(f"{path} {refusal.problem}", refusal.hint, key=flag)
        problem = "has no config.json" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
        raise BadInput(f"{path} {problem}", "give a folder in Hugging Face format, or a Hub id", key=flag)
    return str(absolute(path))  # an adapter records it as its base


def _refuse_code(checkpoint: str, flag: str) -> None:
    """Raises BadInput for a checkpoint with code of its own; transformers would ask on a terminal."""
    for name in CONFIGS:
        found = cached_file(
            checkpoint,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if found and asks_for_code(json.loads(Path(found).read_text(encoding="utf-8"))):
            raise BadInput(f"{checkpoint} brings code of its own ({name} asks for it)", RUN_ITS_CODE, key=flag)
