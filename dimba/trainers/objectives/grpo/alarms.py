"""Warnings while GRPO trains: nothing can be learnt from the completions or their rewards."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_WINDOW = 5  # logged steps before the first warning
_REPEAT = 50  # steps until a warning is repeated
_NEARLY_ALL = 0.9
_DRIFT = 0.05  # nats of KL(sampler || trainer) per token; the same weights in bf16 are at 0.001 to 0.01
_TRUNCATED = 0.02  # of the tokens

Logs = Mapping[str, Any]
Window = Sequence[Logs]


def _mean(window: Window, name: str) -> float:
    return sum(logs.get(name, 0.0) for logs in window) / len(window)


def _has_equal_rewards(window: Window) -> bool:
    return _mean(window, "frac_reward_zero_std") > _NEARLY_ALL


def _has_no_reward(window: Window) -> bool:
    return all(logs["reward"] is None for logs in window)


def _is_cut(window: Window) -> bool:
    return _mean(window, "completions/clipped_ratio") > _NEARLY_ALL


def _has_one_length(window: Window) -> bool:
    lengths = {logs.get(f"completions/{end}_length") for logs in window for end in ("min", "max")}
    return len(lengths) == 1 and None not in lengths and not _is_cut(window)


def _drifts(window: Window) -> bool:
    return _mean(window, "sampler_kl") > _DRIFT or _mean(window, "sampler_truncated") > _TRUNCATED


@dataclass(frozen=True)
class Alarm:
    """A problem that a window of logged steps shows, and a hint."""

    is_shown_by: Callable[[Window], bool]
    problem: str
    hint: str


_ALARMS = (
    Alarm(
        _has_no_reward,
        "no completion gets a reward: each is None",
        "fix the reward so that it returns numbers; samples.jsonl has the completions that it gets",
    ),
    Alarm(
        _has_equal_rewards,
        "in nearly every group all completions get the same reward, so there is nothing to learn from",
        "use rows that are neither too easy nor too hard, a reward with more grades (a second one beside it), "
        "more --num-generations or a higher --temperature; samples.jsonl has the completions",
    ),
    Alarm(
        _is_cut,
        "nearly all completions are cut at --max-completion-length before they end",
        "raise --max-completion-length (and training.max_length), or fine-tune the model first (mode: sft) so that it "
        "ends its turns",
    ),
    Alarm(
        _has_one_length,
        "all completions have the same length",
        "look at samples.jsonl: the reward may depend on the length, or the model may repeat one answer; lower "
        "--learning-rate, raise --beta or --temperature",
    ),
    Alarm(
        _drifts,
        "the sampler's probabilities are far from the trainer's: the correction truncates or outweighs what is learnt",
        "leave out --sampler: transformers samples then, with the model itself; sampler_kl in metrics.jsonl is the "
        "divergence in nats",
    ),
)


class Alarms(TrainerCallback):
    """Prints a warning for a problem that lasts some steps, and repeats it while it lasts."""

    def __init__(self) -> None:
        self._window: deque[Logs] = deque(maxlen=_WINDOW)
        self._warned: dict[Alarm, int] = {}  # the step of the last warning

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Logs | None = None, **_: Any
    ) -> None:
        """Check the metrics of the last steps."""
        if not logs or "reward" not in logs or not state.is_world_process_zero:
            return
        self._window.append(dict(logs))
        if len(self._window) < min(_WINDOW, state.max_steps):
            return
        for alarm in _ALARMS:
            if alarm.is_shown_by(self._window) and self._is_due(alarm, state.global_step):
                self._warn(alarm, state.global_step)

    def _is_due(self, alarm: Alarm, step: int) -> bool:
        return alarm not in self._warned or step - self._warned[alarm] >= _REPEAT

    def _warn(self, alarm: Alarm, step: int) -> None:
        self._warned[alarm] = step
        steps = f"for {len(self._window)} steps" if len(self._window) > 1 else ""
        print(f"warning: {alarm.problem} ({steps} to step {step})\n  hint: {alarm.hint}", flush=True)
