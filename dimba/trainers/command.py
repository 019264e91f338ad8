"""A trainer from its command line to its exit status; every error becomes a message here."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from dimba.common.contract import read_json_object
from dimba.common.errors import DimbaError, RunFailed
from dimba.objectives.objective import Objective, Options
from dimba.options.optimiser_table import BITSANDBYTES
from dimba.options.trainer import TrainerOptions
from dimba.supervisor.last_word import has_reported_error, is_first_report, write_last_word
from dimba.trainers.hub import at_revision, use_cache_if_unreachable
from dimba.trainers.models.output_owner import leave_output
from dimba.trainers.objectives.registry import training_half
from dimba.trainers.ranks import end_rank, is_main_process


def run_script(objective: Objective[Options]) -> int:
    """Train with the options of the command line; returns the exit status.

    `--help` and a wrong flag are answered before torch is imported.
    """
    options = objective.parse()
    hide_bitsandbytes(options)

    def train(options: TrainerOptions) -> int:
        if (note := use_cache_if_unreachable(options)) and is_main_process():
            print(note, flush=True)
        return training_half(objective.name).train(at_revision(options))

    return run_trainer(train, options)


def run_trainer(train: Callable[[Options], int], options: Options) -> int:
    """Call `train`; a DimbaError is printed and becomes its exit status, any other exception keeps its traceback."""
    try:
        status = _train(train, options)
        end_rank(status, together=True)
        return status
    except DimbaError as error:
        if is_first_report(error, is_first_rank=is_main_process()):
            write_last_word(error)  # before the lines in the log, which the launcher recognises by it
            print(f"error: {error}", file=sys.stderr, flush=True)
        end_rank(error.exit_status, together=False)
        return error.exit_status
    except Exception:
        if has_reported_error():
            return RunFailed.exit_status  # a rank that has ended breaks the connections of the others
        raise
    finally:
        leave_output()


def _train(train: Callable[[Options], int], options: Options) -> int:
    """`train(options)`; raises RunFailed where it runs out of the GPU's memory, in any step and while it loads."""
    try:
        return train(options)
    except Exception as error:
        if "torch" in sys.modules and not isinstance(error, DimbaError):
            from dimba.trainers.models.gpu_errors import out_of_memory  # with torch, which `--help` does not need

            if failure := out_of_memory(error):
                raise failure from error
        raise


def hide_bitsandbytes(options: TrainerOptions) -> None:
    """Make bitsandbytes look uninstalled in this process if nothing needs it: peft imports it, for about 1 s.

    A Hub id may name a quantised model; only a folder shows that it is none.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that it would like to download
    is_needed = options.use_qlora or options.optimizer in BITSANDBYTES
    if not is_needed and all(map(_is_unquantized_folder, options.model_checkpoints)):
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]  # Python's mark of a failed import


def _is_unquantized_folder(checkpoint: str) -> bool:
    config = Path(checkpoint, "config.json").expanduser()
    return config.is_file() and "quantization_config" not in read_json_object(config)
