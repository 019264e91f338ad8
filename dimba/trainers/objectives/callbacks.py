"""Callbacks of every trainer: metrics.jsonl and progress lines, a heartbeat, the end on NaN, a stop that saves."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.common.contract import ENV_ATTEMPT_DIR, ENV_ON_CPU_INSTEAD, METRICS_FILE
from dimba.common.errors import RunFailed
from dimba.common.units import quantity
from dimba.objectives.rewards import reward_label

_LINE_SECONDS = 2.0  # between progress lines on a pipe
_NAN_STEPS = 3  # in a row that end a run: half precision may overflow once and recover

Logs = Mapping[str, Any] | None


def metrics_path(output_dir: str) -> Path:
    """metrics.jsonl in the attempt's folder under the launcher, else in the output folder."""
    return Path(os.environ.get(ENV_ATTEMPT_DIR) or output_dir, METRICS_FILE)


class Metrics(TrainerCallback):
    """Writes a JSON object per logged step, and a progress line: rewritten on a terminal, every 2 s on a pipe.

    `shown` are the metrics in that line, as far as a step has them; the loss if it has none of them.
    """

    def __init__(self, path: Path, shown: Sequence[str] = ("loss",)) -> None:
        self.path, self._shown = path, shown
        self._is_terminal = sys.stdout.isatty()
        self._suffix = "  on the CPU instead of the GPUs asked for" if os.environ.get(ENV_ON_CPU_INSTEAD) else ""
        self._started = self._last_log = self._last_line = 0.0
        self._first_step = 0
        self._tokens = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock: imports, loading and tokenising are not training time."""
        self._started = self._last_log = time.monotonic()
        self._first_step = state.global_step
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            print(f"training: {quantity(state.max_steps, 'step')}{self._suffix}", flush=True)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Logs = None, **_: Any
    ) -> None:
        """Write a line of metrics.jsonl and, when it is due, a progress line."""
        values = {key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}
        if not state.is_world_process_zero:
            return
        if "eval_loss" in values:
            self.write(state, values)
            print(
                f"step {state.global_step}/{state.max_steps}  validation {self._metrics(values, 'eval_')}", flush=True
            )
        elif "loss" in values:
            self._log_step(state, values)

    def _log_step(self, state: TrainerState, values: dict[str, float]) -> None:
        now = time.monotonic()
        tokens = float(values.get("num_tokens", self._tokens))
        values["tokens_per_second"] = round((tokens - self._tokens) / max(now - self._last_log, 1e-9), 1)
        values["elapsed"] = round(now - self._started, 4)
        self._tokens, self._last_log = tokens, now
        self.write(state, values)
        is_last = state.global_step >= state.max_steps
        if self._is_terminal or is_last or self._last_line == 0 or now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            self._print_line(self._progress_line(state, values, now), is_last=is_last)

    def write(self, state: TrainerState, values: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        line = json.dumps({"step": state.global_step, "max_steps": state.max_steps, **numbers}) + "\n"
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:  # a save reports a full disk
            file.write(line)

    def _progress_line(self, state: TrainerState, values: Mapping[str, float], now: float) -> str:
        done = state.global_step - self._first_step
        remaining = (now - self._started) / max(done, 1) * (state.max_steps - state.global_step)
        return (
            f"step {state.global_step}/{state.max_steps}  {self._metrics(values)}  "
            f"{values['tokens_per_second']:,.0f} tokens/s  ETA {clock(remaining)}{self._suffix}"
        )

    def _metrics(self, values: Mapping[str, float], prefix: str = "") -> str:
        names = [name for name in self._shown if f"{prefix}{name}" in values] or ["loss"]
        labels = {"reward": reward_label(values)}
        return "  ".join(f"{labels.get(name, name)} {values[f'{prefix}{name}']:.4f}" for name in names)

    def _print_line(self, line: str, *, is_last: bool) -> None:
        if self._is_terminal:
            print(f"\r\033[K{line}", end="\n" if is_last else "", flush=True)
        else:
            print(line, flush=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


class Heartbeat(TrainerCallback):
    """Touches metrics.jsonl between logged steps, so that hang detection sees that a long step is running."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = 0.0

    def _beat(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and time.monotonic() - self._last > 1:
            self._last = time.monotonic()
            with suppress(OSError):
                os.utime(self._path)

    on_substep_end = on_prediction_step = on_evaluate = on_save = _beat


class EndOnNan(TrainerCallback):
    """Ends a run whose loss stays NaN or infinite, before a checkpoint is saved: it does not recover."""

    def __init__(self) -> None:
        self._since: int | None = None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Logs = None, **_: Any
    ) -> None:
        """Count the steps in a row; all ranks see the same loss."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        self._since = None if math.isfinite(loss) else self._since or state.global_step
        if self._since:
            control.should_save = False  # the weights may be NaN too
        if self._since and (state.global_step - self._since + 1 >= _NAN_STEPS or control.should_training_stop):
            raise RunFailed(
                f"the loss is not a number since step {self._since}",
                "lower `training.learning_rate`, or set `accelerate.mixed_precision: 'no'`; `dimba resume` continues "
                "from the last checkpoint before that step",
                reason="nan_loss",
            )


class StopOnSignal(TrainerCallback):
    """SIGTERM and SIGINT save a checkpoint at the next step boundary and stop; all ranks agree on the step."""

    def __init__(self) -> None:
        self.requested = self.stopped = False
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._request)

    def _request(self, _signum: int, _frame: object) -> None:
        self.requested = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop if any rank got a signal."""
        if _any_rank(self.requested, args) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
            if state.is_world_process_zero:
                print(f"stopping: saving checkpoint-{state.global_step}", flush=True)


def _any_rank(flag: bool, args: TrainingArguments) -> bool:
    if args.world_size == 1:
        return flag
    value = torch.tensor(int(flag), device=args.device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return bool(value.item())
