"""`from_pretrained` of the libraries, which raises BadInput, and accepts no weights that are not from the files."""

from __future__ import annotations

import json
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from transformers.utils import cached_file

from dimba.common.checkpoint.files import other_format_refusal
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.checkpoints import CONFIGS, asks_for_code
from dimba.common.contract import RUN_ITS_CODE, absolute, is_path
from dimba.common.errors import BadInput
from dimba.trainers.models.finite import files_refusal, weights_refusal
from dimba.trainers.models.generation import repaired_generation_config
from dimba.trainers.models.loading_report import LoadingReport, unconverted_refusal
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BASE = "--base-checkpoint"
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
    notes = (*(f"generation config: {change}" for change in changes), report.note())
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
    return model, info


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
        checkpoint = _local_checkpoint(Path(checkpoint).expanduser(), flag)
    try:
        if not settings["trust_remote_code"]:
            _refuse_code(checkpoint, flag)
        return kind.from_pretrained(checkpoint, **settings)
    except (OSError, ValueError) as error:
        hint = "check the folder's files; a Hub id needs the network, a private one HF_TOKEN"
        if "safetensors" in str(error):
            hint = "convert it with `save_pretrained`; or `--allow-pickle`, if you trust its author"
        raise BadInput(f"{checkpoint}: {str(error).strip().splitlines()[0]}", hint, key=flag) from error


def _local_checkpoint(path: Path, flag: str) -> str:
    if not (path / "config.json").is_file():
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
