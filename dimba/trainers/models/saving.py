"""Where what was trained goes, and what libraries must not say on the way there."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dimba.common.contract import ENV_RUN_ID, OUTPUT_FILE, SAVING_FOLDER, trained_files
from dimba.common.errors import BadInput
from dimba.options.trainer import TrainerOptions
from dimba.trainers.command import is_first_rank
from dimba.trainers.models.checkpoints import disk_watched, model_bytes, move_whole
from dimba.trainers.models.sharding import is_asked, whole_weights


@contextmanager
def output_folder(args: TrainerOptions) -> Iterator[None]:
    """Makes the folder, so that one that cannot be made is refused at once; a refusal that follows takes it back.

    One that holds somebody else's model is refused.
    """
    folder = Path(args.output_dir)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    _make_output(args, folder)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what something has been written into stays
            for each in made:
                each.rmdir()
        raise


def _make_output(args: TrainerOptions, folder: Path) -> None:
    ours = os.environ.get(ENV_RUN_ID) and (folder / OUTPUT_FILE).exists()
    there = trained_files(folder)
    if there and not ours and not args.resume_from_checkpoint:
        hint = "give another --output-dir, move that folder away, or --resume-from-checkpoint one of its checkpoints"
        raise BadInput(f"{folder} already holds a model ({there[0].name})", hint, key="--output-dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"{folder}: {error.strerror}", "give a folder that you may write in", key="--output-dir"
        ) from None


def save(trainer: Any, folder: str) -> None:
    """The model or adapter with its tokenizer, written aside first; all ranks together."""
    output, aside = Path(folder), Path(folder, SAVING_FOLDER, "model")
    with disk_watched(output, model_bytes(trainer.model), first=is_first_rank()):
        write_model(trainer, str(aside))
        trainer.accelerator.wait_for_everyone()
        if is_first_rank():
            # A pickle, and only a copy of the flags.
            (aside / "training_args.bin").unlink(missing_ok=True)
            readable(aside)
            move_whole(aside, output)
            print(f"saved: {folder}", flush=True)


def write_model(trainer: Any, folder: str) -> None:
    """The model or adapter as the first rank writes it; all ranks together."""
    if not is_asked():
        trainer.save_model(folder)
        return
    weights = whole_weights(trainer.model)  # transformers would write nothing of a sharded model, and say nothing
    if is_first_rank():
        trainer._save(folder, state_dict=weights)


def readable(folder: Path) -> None:
    """safetensors writes files that their owner alone may read; a model is as open as the umask says."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o666 & ~umask)


def stop_where_turns_end(model: Any, tokenizer: Any, turn_ends: Sequence[str]) -> None:
    """Lets generation end at the tokens that end a turn, here and where the model is loaded again."""
    known = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    learnt = {tokenizer.convert_tokens_to_ids(end) for end in turn_ends} - {tokenizer.unk_token_id, None}
    model.generation_config.eos_token_id = sorted(ids | learnt)


def quiet() -> None:
    """Progress bars of libraries end up as hundreds of lines in a log; their warnings are about their own defaults."""
    import logging
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nobody asked for it
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
