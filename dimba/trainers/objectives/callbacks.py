"""What a run says while it trains: metrics.jsonl, a progress line, and a stop that saves."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.common.contract import ENV_ATTEMPT_DIR, METRICS_FILE
from dimba.common.errors import RunFailed
from dimba.objectives.rewards import reward_label
from dimba.supervisor.entry import ON_CPU_INSTEAD

_LINE_SECONDS = 2.0  # between progress lines on a pipe


def metrics_path(output_dir: str) -> Path:
    """The attempt's folder under the launcher, else the output folder."""
    return Path(os.environ.get(ENV_ATTEMPT_DIR) or output_dir, METRICS_FILE)


class Metrics(TrainerCallback):
    """One JSON object a logged step, and a line for people: rewritten on a terminal, now and then on a pipe.

    `shown` are the metrics in that line; those that a step lacks are left out, and the loss stands in for all of them.
    """

    def __init__(self, path: Path, shown: Sequence[str] = ("loss",)) -> None:
        self.path = path
        self._shown = shown
        self.live = sys.stdout.isatty()
        self.suffix = "  on the CPU instead of the GPUs asked for" if os.environ.get(ON_CPU_INSTEAD) else ""
        self.started = self.logged = self.spoke = 0.0
        self.first_step = 0
        self.tokens = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts the clock: imports, loading and tokenising are not training time."""
        self.started = self.logged = time.monotonic()
        self.first_step = state.global_step
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            print(f"training: {state.max_steps} steps{self.suffix}", flush=True)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Writes one line of metrics.jsonl and, when it is time, one for people."""
        values = {key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}
        if not state.is_world_process_zero:
            return
        if "eval_loss" in values:
            self.write(state, values)
            print(f"step {state.global_step}/{state.max_steps}  validation {self._told(values, 'eval_')}", flush=True)
        elif "loss" in values:
            self._on_step(state, values)

    def _on_step(self, state: TrainerState, values: dict[str, float]) -> None:
        now = time.monotonic()
        tokens = float(values.get("num_tokens", self.tokens))
        values["tokens_per_second"] = round((tokens - self.tokens) / max(now - self.logged, 1e-9), 1)
        values["elapsed"] = round(now - self.started, 4)
        self.tokens, self.logged = tokens, now
        self.write(state, values)
        last = state.global_step >= state.max_steps
        if self.live or last or self.spoke == 0 or now - self.spoke >= _LINE_SECONDS:
            self.spoke = now
            self._say(state, values, now, last=last)

    def write(self, state: TrainerState, values: dict[str, float]) -> None:
        """One line of metrics.jsonl."""
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        line = json.dumps({"step": state.global_step, "max_steps": state.max_steps, **numbers}) + "\n"
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:  # a full disk is told where it matters
            file.write(line)

    def _say(self, state: TrainerState, values: dict[str, float], now: float, *, last: bool) -> None:
        done = state.global_step - self.first_step
        left = (now - self.started) / max(done, 1) * (state.max_steps - state.global_step)
        line = (
            f"step {state.global_step}/{state.max_steps}  {self._told(values)}  "
            f"{values['tokens_per_second']:,.0f} tokens/s  ETA {clock(left)}{self.suffix}"
        )
        if self.live:
            print(f"\r\033[K{line}", end="\n" if last else "", flush=True)
        else:
            print(line, flush=True)

    def _told(self, values: dict[str, float], prefix: str = "") -> str:
        there = [name for name in self._shown if f"{prefix}{name}" in values] or ["loss"]
        labels = {"reward": reward_label(values)}
        return "  ".join(f"{labels.get(name, name)} {values[f'{prefix}{name}']:.4f}" for name in there)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


class SignsOfLife(TrainerCallback):
    """Shows, by the time of metrics.jsonl, that what takes longer than a step goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown = 0.0

    def _show(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and time.monotonic() - self._shown > 1:
            self._shown = time.monotonic()
            with suppress(OSError):
                os.utime(self._path)

    on_substep_end = on_prediction_step = on_evaluate = on_save = _show


class NoNumber(TrainerCallback):
    """Ends a run whose loss is not a number any more, before it is saved; it does not come back from there."""

    _PATIENCE = 3  # steps: half precision may overflow once and go on

    def __init__(self) -> None:
        self._since: int | None = None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Counts the steps in a row; all ranks see the same loss."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        self._since = None if math.isfinite(loss) else self._since or state.global_step
        if self._since:
            control.should_save = False  # what may be spoiled is not kept
        if self._since and (state.global_step - self._since + 1 >= self._PATIENCE or control.should_training_stop):
            raise RunFailed(
                f"the loss is not a number since step {self._since}",
                "lower `training.learning_rate`, or set `accelerate.mixed_precision: 'no'`; `dimba resume` goes on "
                "from the last checkpoint before it",
                reason="nan_loss",
            )


class StopOnSignal(TrainerCallback):
    """SIGTERM and SIGINT save a checkpoint at the next step boundary and stop; all ranks agree on the step."""

    def __init__(self) -> None:
        self.asked = self.stopped = False
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._ask)

    def _ask(self, _signum: int, _frame: object) -> None:
        self.asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Asks every rank whether any of them was told to stop."""
        if _any_rank(self.asked, args) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
            if state.is_world_process_zero:
                print(f"stopping: saving checkpoint-{state.global_step}", flush=True)


def _any_rank(flag: bool, args: TrainingArguments) -> bool:
    if args.world_size == 1:
        return flag
    import torch

    value = torch.tensor(int(flag), device=args.device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return bool(value.item())
