"""What goes wrong with GRPO while it trains, said when it happens, with what to change."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_WINDOW = 5  # logged steps in a row, before something is said
_AGAIN = 50  # steps until it is said again
_NEARLY_ALL = 0.9


Window = Sequence[Mapping[str, Any]]


def _mean(seen: Window, name: str) -> float:
    return sum(logs.get(name, 0.0) for logs in seen) / len(seen)


def _same_reward(seen: Window) -> bool:
    return _mean(seen, "frac_reward_zero_std") > _NEARLY_ALL


def _no_reward(seen: Window) -> bool:
    return all(logs["reward"] is None for logs in seen)


def _cut(seen: Window) -> bool:
    return _mean(seen, "completions/clipped_ratio") > _NEARLY_ALL


def _one_length(seen: Window) -> bool:
    lengths = {logs.get(f"completions/{which}_length") for logs in seen for which in ("min", "max")}
    return len(lengths) == 1 and None not in lengths and not _cut(seen)


_ALARMS = (
    (
        _no_reward,
        "no completion gets a reward: each is None",
        "mend the reward so that it gives numbers; look at samples.jsonl for what it samples",
    ),
    (
        _same_reward,
        "in nearly every group all completions get the same reward, so there is nothing to learn from",
        "take rows that are neither too easy nor too hard, a reward with more grades (a second one beside it), "
        "more --num-generations or a higher --temperature; look at samples.jsonl for what it samples",
    ),
    (
        _cut,
        "nearly all completions are cut at --max-completion-length before they end",
        "raise --max-completion-length (and training.max_length), or fine-tune the model first (mode: sft) so that it "
        "ends its turns",
    ),
    (
        _one_length,
        "all completions have the same length",
        "look at samples.jsonl: the reward may be for the length, or the model says one thing only; lower "
        "--learning-rate, raise --beta or --temperature",
    ),
)


class Alarms(TrainerCallback):
    """Says loudly what keeps a run from learning, once it has lasted for some steps, and again while it lasts."""

    def __init__(self) -> None:
        self._seen: deque[dict[str, float]] = deque(maxlen=_WINDOW)
        self._said: dict[str, int] = {}

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Looks at the last steps' metrics."""
        if "reward" not in (logs or {}) or not state.is_world_process_zero:
            return
        self._seen.append(dict(logs))
        if len(self._seen) < min(_WINDOW, state.max_steps):
            return
        for shows, what, change in _ALARMS:
            last = self._said.get(what)
            if shows(self._seen) and (last is None or state.global_step - last >= _AGAIN):
                self._said[what] = state.global_step
                steps = f"for {len(self._seen)} steps" if len(self._seen) > 1 else ""
                print(f"warning: {what} ({steps} to step {state.global_step})\n  change: {change}", flush=True)
