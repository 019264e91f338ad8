"""The output folder, the saved model in it, and the libraries' output on the way there."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

from dimba.common.contract import ENV_RUN_ID, OUTPUT_FILE, SAVING_FOLDER, read_json_object, trained_files
from dimba.common.errors import BadInput
from dimba.options.trainer import TrainerOptions
from dimba.trainers.models.checkpoints import full_disk_reported, model_bytes, move_into_place
from dimba.trainers.models.output_owner import leave_output, own_output
from dimba.trainers.models.precision import Precision
from dimba.trainers.models.sharding import full_weights, is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

Weights = dict[str, torch.Tensor]
FLOAT32 = Precision()


@contextmanager
def output_folder(options: TrainerOptions) -> Iterator[None]:
    """Makes --output-dir, and removes it again if the block raises before it writes there.

    Raises:
        BadInput: the folder cannot be made, or holds a model that another run has trained.
    """
    folder = Path(options.output_dir)
    # By one process alone: of several, the one that made it would find the owner's file in it.
    made = [each for each in (folder, *folder.parents) if is_main_process() and not each.exists()]
    try:
        if is_main_process():
            _make_output(folder)
        own_output(folder)  # before its content is looked at
        _refuse_trained(options, folder)
        yield
    except BaseException:
        leave_output()
        with suppress(OSError):  # a folder with files in it stays
            for each in made:
                each.rmdir()
        raise
    else:
        leave_output()


def _refuse_trained(options: TrainerOptions, folder: Path) -> None:
    is_own = os.environ.get(ENV_RUN_ID) and (folder / OUTPUT_FILE).exists()
    there = trained_files(folder)
    if there and not is_own and not options.resume_from_checkpoint:
        hint = "give another --output-dir, move that folder away, or --resume-from-checkpoint one of its checkpoints"
        raise BadInput(f"{folder} already holds a model ({there[0].name})", hint, key="--output-dir")


def _make_output(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"{folder}: {error.strerror}", "give a folder that you may write in", key="--output-dir"
        ) from None


def save(trainer: Trainer, folder: str, precision: Precision) -> None:
    """Saves the model or adapter with its tokenizer, written aside first. All ranks must call it together.

    A model is saved in `precision`, an adapter in float32, in which both were trained.
    """
    output, aside = Path(folder), Path(folder, SAVING_FOLDER, "model")
    with full_disk_reported(output, saved_bytes(trainer.model, precision), check_first=is_main_process()):
        written = write_model(trainer, str(aside), precision)
        trainer.accelerator.wait_for_everyone()
        if is_main_process():
            apply_umask(aside)
            move_into_place(aside, output)
            print(f"saved: {folder}{_in_words(trainer.model, written)}", flush=True)


def saved_bytes(model: torch.nn.Module, precision: Precision) -> int:
    """The size of the model's weights in that precision, or of its adapter."""
    return model_bytes(model) if hasattr(model, "peft_config") else precision.bytes_of(model)


def _in_words(model: torch.nn.Module, precision: Precision) -> str:
    is_cast = precision.usual != torch.float32 and not hasattr(model, "peft_config")
    return f" ({precision}, as the base; it was trained in float32)" if is_cast else ""


def write_model(trainer: Trainer, folder: str, precision: Precision = FLOAT32) -> Precision:
    """Writes the model or adapter, from the first rank; returns its precision. All ranks must call it together."""
    weights = full_weights(trainer.model) if is_sharded() else None  # transformers silently writes nothing of these
    return write_weights(trainer, folder, weights, precision) if is_main_process() else precision


def write_weights(trainer: Trainer, folder: str, weights: Weights | None, precision: Precision) -> Precision:
    """Writes `weights` (default: the trainer's own) with configuration and tokenizer. The first rank calls it."""
    if precision == FLOAT32 or hasattr(trainer.model, "peft_config"):
        trainer._save(folder, state_dict=weights)
    else:
        found = trainer.model.state_dict() if weights is None else weights
        if not precision.holds(found):
            print("saved in float32: a weight is beyond the range of float16, the type of the base", flush=True)
            precision = FLOAT32
        trainer._save(folder, state_dict=precision.weights(found))
        name_type(Path(folder, "config.json"), precision)
    Path(folder, "training_args.bin").unlink(missing_ok=True)  # a pickle, and only a copy of the flags
    return precision


def name_type(file: Path, precision: Precision) -> None:
    """Writes the type of the saved weights into a config.json; the library names that of the model in memory."""
    config = read_json_object(file)
    for part in (config, *(each for each in config.values() if isinstance(each, dict))):
        part.update({name: str(precision) for name in ("dtype", "torch_dtype") if part.get(name) == "float32"})
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def apply_umask(folder: Path) -> None:
    """Gives the weight files the usual permissions: safetensors writes files that only their owner may read."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o666 & ~umask)


def stop_where_turns_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, turn_ends: Sequence[str]) -> None:
    """Adds the tokens that end a turn to the model's generation config, which is saved with it."""
    if getattr(model, "generation_config", None) is None:  # it has no `generate` of transformers
        return
    known = model.generation_config.eos_token_id
    ids = {*(known if isinstance(known, list) else [known])} - {None}
    model.generation_config.eos_token_id = sorted(ids | end_ids(tokenizer, turn_ends))


def end_ids(tokenizer: PreTrainedTokenizerBase, turn_ends: Sequence[str]) -> set[int]:
    """The ids of the tokens that end a turn, and of the tokenizer's own end token."""
    learnt = {tokenizer.convert_tokens_to_ids(end) for end in turn_ends} - {tokenizer.unk_token_id}
    return {tokenizer.eos_token_id, *learnt} - {None}


# What peft saves of an adapted embedding, which the rehearsal of the save compares; and paging, which a CPU has not.
_OWN_DEFAULTS = ("Setting `save_embedding_layers`", "Paged optimizers are not supported on CPU")


def quiet() -> None:
    """Turns off the libraries' progress bars, hundreds of lines in a log, and warnings about their own defaults."""
    import datasets  # 0.3 s, which a preview of data does not need

    datasets.disable_progress_bars()
    quiet_transformers()


def quiet_transformers() -> None:
    """As `quiet`, without the data's libraries."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    for message in _OWN_DEFAULTS:
        warnings.filterwarnings("ignore", message=message)
