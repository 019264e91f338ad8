"""The output folder, the saved model in it, and the libraries' output on the way there."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import transformers

from dimba.common.contract import ENV_RUN_ID, OUTPUT_FILE, SAVING_FOLDER, trained_files
from dimba.common.errors import BadInput
from dimba.options.trainer import TrainerOptions
from dimba.trainers.models.checkpoints import full_disk_reported, model_bytes, move_into_place
from dimba.trainers.models.output_owner import leave_output, own_output
from dimba.trainers.models.sharding import full_weights, is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


@contextmanager
def output_folder(options: TrainerOptions) -> Iterator[None]:
    """Makes --output-dir, and removes it again if the block raises before it writes there.

    Raises:
        BadInput: the folder cannot be made, or holds a model that another run has trained.
    """
    folder = Path(options.output_dir)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
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


def save(trainer: Trainer, folder: str) -> None:
    """Saves the model or adapter with its tokenizer, written aside first. All ranks must call it together."""
    output, aside = Path(folder), Path(folder, SAVING_FOLDER, "model")
    with full_disk_reported(output, model_bytes(trainer.model), check_first=is_main_process()):
        write_model(trainer, str(aside))
        trainer.accelerator.wait_for_everyone()
        if is_main_process():
            (aside / "training_args.bin").unlink(missing_ok=True)  # a pickle, and only a copy of the flags
            apply_umask(aside)
            move_into_place(aside, output)
            print(f"saved: {folder}", flush=True)


def write_model(trainer: Trainer, folder: str) -> None:
    """Writes the model or adapter, from the first rank. All ranks must call it together."""
    if not is_sharded():
        trainer.save_model(folder)
        return
    weights = full_weights(trainer.model)  # transformers silently writes nothing of a sharded model
    if is_main_process():
        trainer._save(folder, state_dict=weights)


def apply_umask(folder: Path) -> None:
    """Gives the weight files the usual permissions: safetensors writes files that only their owner may read."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o666 & ~umask)


def stop_where_turns_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, turn_ends: Sequence[str]) -> None:
    """Adds the tokens that end a turn to the model's generation config, which is saved with it."""
    known = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    learnt = {tokenizer.convert_tokens_to_ids(end) for end in turn_ends} - {tokenizer.unk_token_id, None}
    model.generation_config.eos_token_id = sorted(ids | learnt)


def quiet() -> None:
    """Turns off the libraries' progress bars, hundreds of lines in a log, and warnings about their own defaults."""
    import datasets  # 0.3 s, which a preview of data does not need

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
