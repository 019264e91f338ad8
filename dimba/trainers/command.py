"""How a trainer ends: the one place that turns what went wrong into a message and an exit status."""

import atexit
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dimba.common.contract import json_object
from dimba.common.errors import DimbaError, RunFailed
from dimba.objectives.objective import Objective, Options
from dimba.options.trainer import TrainerOptions
from dimba.supervisor.last_word import has_reported_error, is_first_report, write_last_word

Progress = Callable[[int], None]  # takes the number of rows done so far


def run_script(objective: Objective[Options]) -> int:
    """Train as the command line says; returns the exit status.

    Flags are parsed first, so that `--help` and a wrong flag answer before torch is imported.
    """
    options = objective.parse()
    hide_quantising(options)
    from dimba.trainers.objectives.registry import training_half

    return run_trainer(training_half(objective.name).train, options)


def run_trainer(train: Callable[[Options], int], args: Options) -> int:
    """Calls `train`; a DimbaError becomes its message on stderr and its status, anything else keeps its traceback."""
    try:
        status = train(args)
        _end_rank(status, together=True)
        return status
    except DimbaError as error:
        if is_first_report(error, is_first_rank=is_first_rank()):
            write_last_word(error)  # before the lines in the log, which the launcher recognises by it
            print(f"error: {error}", file=sys.stderr, flush=True)
        _end_rank(error.exit_status, together=False)
        return error.exit_status
    except Exception:
        if has_reported_error():
            return RunFailed.exit_status  # a rank that has ended breaks the connections of the others
        raise


def hide_quantising(args: TrainerOptions) -> None:
    """Keeps bitsandbytes, which peft imports wherever it is, out of a process that quantises nothing: a second.

    Only a folder says that it is not quantised already; a Hub id might be. For a process that does nothing else.
    """
    models = [args.base_checkpoint, getattr(args, "reward_model", None)]
    if not args.use_qlora and all(_is_plain(each) for each in models if each):
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]  # as Python's import has it: not there


def _is_plain(checkpoint: str) -> bool:
    config = Path(checkpoint, "config.json").expanduser()
    return config.is_file() and "quantization_config" not in json_object(config)


def _end_rank(status: int, *, together: bool) -> None:
    """Ends a process that is connected to other ranks, here and now; does nothing in one that is alone.

    Connections are closed where the others end `together` with it; they may be waiting elsewhere.

    Threads of these connections that are found running where the interpreter is taken down abort the process now and
    then, after all was saved; closing the connections alone does not always end them (gloo, under FSDP2).
    """
    torch = sys.modules.get("torch")
    if torch and torch.distributed.is_available() and torch.distributed.is_initialized():
        if together:
            torch.distributed.destroy_process_group()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def is_first_rank() -> bool:
    """Whether this process speaks for all of the job's, which it does alone too."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def every(seconds: float, report: Progress) -> Progress:
    """Calls `report` with the newest number, at most once in `seconds`."""
    reported = time.monotonic()

    def count(number: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= seconds:
            reported = time.monotonic()
            report(number)

    return count


def print_progress() -> Progress:
    """Progress for people: one line that is rewritten on a terminal, a line every 5 s on a pipe."""
    if sys.stdout.isatty():
        return every(0.2, lambda rows: print(f"\r\033[Kdata: {rows:,} rows tokenised", end="\r", flush=True))
    return every(5.0, lambda rows: print(f"data: {rows:,} rows tokenised", flush=True))
