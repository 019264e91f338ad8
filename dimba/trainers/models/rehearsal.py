"""The save at the end of a run, tried before its first step: written to a scratch folder, loaded again, compared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from dimba.common.contract import SAVING_FOLDER
from dimba.common.errors import BadInput, DimbaError, RunFailed, first_line
from dimba.trainers.models.checkpoints import full_disk_reported, means_full_disk
from dimba.trainers.models.families import family_of_model
from dimba.trainers.models.generation import repair_model
from dimba.trainers.models.precision import Precision
from dimba.trainers.models.saved_model import (
    LARGE,
    Texts,
    adapter_values_problem,
    is_rounded,
    reloaded_problem,
    values_problem,
)
from dimba.trainers.models.saving import saved_bytes, write_weights
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.ranks import is_main_process, world_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

_SAMPLE = "Ünïcode, 12 + 345 = 357:\n\t<b>words</b> 中文 😀 <|x|>"
_MOST_ELEMENTS = 1 << 16  # of a tensor that is written for a model which is not written whole


def rehearse(trainer: Trainer, precision: Precision, texts: Texts, base: str) -> None:
    """Writes what the end of the run will write, loads it again and compares; then removes it.

    All of an adapter and of a model below 1 GiB; of a larger model all but its large tensors. `texts` are tokens for
    the logits. All ranks must call it together.

    Raises:
        BadInput: a part cannot be saved, or is not the same once it is loaded.
        RunFailed: the disk is full.
    """
    error: DimbaError | None = None
    if is_main_process():
        try:
            _rehearse(trainer, precision, texts, base)
        except DimbaError as found:
            error = found
    if world_size() > 1:
        error = _from_main(error)
    if error:
        raise error


def _from_main(error: DimbaError | None) -> DimbaError | None:
    """The first rank's error on every rank: they end together."""
    sent = [(type(error) is RunFailed, error.cause, error.hint) if error else None]
    broadcast_object_list(sent)
    if error or sent[0] is None:
        return error
    is_full, cause, hint = sent[0]
    return RunFailed(cause, hint, reason="disk_full") if is_full else BadInput(cause, hint)


def _rehearse(trainer: Trainer, precision: Precision, texts: Texts, base: str) -> None:
    output = Path(trainer.args.output_dir)
    scratch = output / SAVING_FOLDER / "rehearsal"
    shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)  # of a run that was killed while saving
    model, tokenizer = trainer.model, trainer.processing_class
    own = model.get_base_model() if hasattr(model, "peft_config") else model
    for change in (*repair_model(own), *drop_unsavable_templates(tokenizer)):
        print(f"saved with the model: {change}", flush=True)
    try:
        output.mkdir(parents=True, exist_ok=True)
        needed = saved_bytes(model, precision)
        with full_disk_reported(output, needed if needed <= LARGE else 0, check_first=False):
            with _part("tokenizer", f"`AutoTokenizer.from_pretrained('{base}').save_pretrained('copy')`", base):
                check_tokenizer(tokenizer, scratch)
            with _part("configuration", f"`AutoConfig.from_pretrained('{base}').save_pretrained('copy')`", base):
                own.config.save_pretrained(scratch)
                type(own.config).from_pretrained(scratch)
            loader = family_of_model(own).auto_class
            with _part("model", f"`{loader}.from_pretrained('{base}').save_pretrained('copy')`", base):
                _require(_weights_problem(trainer, precision, texts, str(scratch)))
    finally:
        shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)


@contextmanager
def _part(name: str, attempt: str, base: str) -> Iterator[None]:
    """Reports what the block raises as a fault of this part of the base; a full disk is reported elsewhere."""
    try:
        yield
    except Exception as error:  # whatever the library raises at the end would cost the run
        if means_full_disk(error):
            raise
        line = first_line(error)
        problem = f"the {name} of {base} could not be saved at the end of the run: {line}"
        raise BadInput(problem, f"correct the base until {attempt} works and loads again") from error


def _require(problem: str) -> None:
    if problem:
        raise ValueError(f"saved and loaded again, it differs: {problem}")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves the tokenizer and loads it; raises ValueError if tokens or chat template are not the same."""
    tokenizer.save_pretrained(folder)
    other = type(tokenizer).from_pretrained(folder)
    if _ids(tokenizer) != _ids(other):
        raise ValueError("saved and loaded again, it makes other tokens of the same text")
    if len(tokenizer) != len(other):
        raise ValueError(f"saved and loaded again, it has {len(other):,} tokens, not {len(tokenizer):,}")
    if _templates(tokenizer) != _templates(other):
        raise ValueError("saved and loaded again, its chat template is another one")


def _ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    text = _SAMPLE + "".join(map(str, tokenizer.all_special_tokens))
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _templates(tokenizer: PreTrainedTokenizerBase) -> Any:
    template = tokenizer.chat_template
    return template if isinstance(template, dict) or not template else {"default": template}


def drop_unsavable_templates(tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Drops chat templates whose name is no file name, beside the one that is used; returns a note of them."""
    templates = getattr(tokenizer, "chat_template", None)
    if tokenizer is None or not isinstance(templates, dict):
        return []
    bad = [name for name in templates if not str(name) or Path(f"{name}.jinja").name != f"{name}.jinja"]
    if not bad:
        return []
    tokenizer.chat_template = {name: text for name, text in templates.items() if name not in bad}
    return [f"without the chat templates {', '.join(map(repr, bad))}: their names cannot be file names"]


def _weights_problem(trainer: Trainer, precision: Precision, texts: Texts, folder: str) -> str:
    """How the model or adapter in `folder` differs from the trainer's, once it is written there."""
    model = trainer.model
    if hasattr(model, "peft_config"):
        trainer._save(folder)
        return adapter_values_problem(model, folder)
    weights = model.state_dict()
    if saved_bytes(model, precision) <= LARGE:
        written = write_weights(trainer, folder, weights, precision)
        if is_sharded():  # in this process the weights are on the CPU, without the parts that FSDP2 will wrap
            return values_problem(folder, model.state_dict())
        return reloaded_problem(model, folder, texts, is_rounded=is_rounded(trainer, written))
    small = {name: each for name, each in weights.items() if each.dim() <= 1 and each.numel() <= _MOST_ELEMENTS}
    write_weights(trainer, folder, dict(small), precision)
    return values_problem(folder, small)
