"""The proof that a run learned: gradients, changed weights, continuations before and after, the saved model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.common.contract import LEARNING_FILE, LIKELIEST_FILE
from dimba.trainers.models.precision import Precision
from dimba.trainers.models.saved_model import saved_problem
from dimba.trainers.models.saving import FLOAT32
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.objectives.callbacks import metrics_path
from dimba.trainers.objectives.continuations import Continuations, Ids, continuations, is_changed, shown
from dimba.trainers.objectives.gradients import GradientWatch, Sums, bit_sums, changed_tensors
from dimba.trainers.objectives.verdict import Evidence, Verdict, verdict
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import Trainer

_FEWEST = 8  # steps of which means say something
_NAMES = 20  # of tensors in learning.json

Row = dict[str, Any]  # `prompt`, `before` and `after` as text, and whether the two differ


class LearningProof(TrainerCallback):
    """Compares the model before and after training; `prompts` are the tokens in front of a few answers.

    `minimises`: its loss is meant to fall, as it is not where rewards are maximised.
    "Before" is the base, also in a resumed run; in a sharded one it is the state at the resumption, as the weights
    reach the GPUs only then.
    """

    def __init__(self, trainer: Trainer, prompts: Sequence[Ids], precision: Precision, *, minimises: bool) -> None:
        self._trainer, self._prompts, self._minimises = trainer, list(prompts), minimises
        self.precision = FLOAT32 if hasattr(trainer.model, "peft_config") else precision
        self._watch = GradientWatch(trainer)
        self._sums: Sums = {}
        self._before: Continuations | None = None
        self._is_resumed = False
        trainer.add_callback(self._watch)
        trainer.add_callback(self)
        if not is_sharded():
            self._look()

    def _look(self) -> None:
        self._sums = bit_sums(self._trainer.model, self.precision)
        self._before = self._continue()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note whether the run is resumed; look at a sharded model now."""
        self._is_resumed = state.global_step > 0
        if is_sharded():
            self._look()

    def _continue(self) -> Continuations | None:
        """On the first rank alone, unless all have to take part."""
        return continuations(self._trainer, self._prompts) if is_sharded() or is_main_process() else None

    def report(self, folder: str) -> None:
        """Compare, print and write learning.json, once the model is saved in `folder`. All ranks must call it."""
        after = self._continue()
        evidence = self._evidence(after)
        problem = _saved_problem(self._trainer, folder, self.precision, self._prompts)
        if not is_main_process():
            return
        found = verdict(evidence)
        rows = self._rows(after)
        _print(found, evidence, rows, problem)
        self._write(LEARNING_FILE, _as_json(found, evidence, rows, problem), indent=2)
        self._write(LIKELIEST_FILE, self._likeliest(after))

    def _likeliest(self, after: Continuations | None) -> list[dict[str, Ids]]:
        """The tokens of the continuations, to which an export of the saved model is compared."""
        tokens = after.tokens if after else []
        return [{"prompt": prompt, "tokens": each} for prompt, each in zip(self._prompts, tokens, strict=False)]

    def _evidence(self, after: Continuations | None) -> Evidence:
        changed = changed_tensors(self._trainer, self._sums, bit_sums(self._trainer.model, self.precision))
        return Evidence(
            trained=self._watch.trained,
            without_gradient=tuple(self._watch.without_gradient()),
            steps=self._watch.steps,
            updates=self._watch.updates,
            changed=changed[0],
            changed_as_saved=changed[1],
            precision=str(self.precision),
            output_change=self._output_change(after),
            is_finite=after is None or after.is_finite,
            is_resumed=self._is_resumed,
            has_equal_rewards=self._watch.has_equal_rewards,
            losses=first_and_last_losses(self._trainer.state) if self._minimises else None,
        )

    def _output_change(self, after: Continuations | None) -> float | None:
        """The change of the logits as a share of their size; None if they are not computed in float32."""
        is_exact = self._trainer.accelerator.mixed_precision == "no"
        before = self._before
        if before is None or after is None or not (is_exact and before.is_finite):
            return None
        return float((after.logits - before.logits).norm() / before.logits.norm().clamp(min=1e-12))

    def _rows(self, after: Continuations | None) -> list[Row]:
        """Prompt and continuations of each row, as text."""
        if self._before is None or after is None:
            return []
        tokenizer = self._trainer.processing_class
        pairs = zip(self._prompts, self._before.tokens, after.tokens, strict=True)
        return [
            {
                "prompt": shown(tokenizer, prompt, end=True),
                "before": shown(tokenizer, old),
                "after": shown(tokenizer, new),
                "changed": is_changed(old, new),
            }
            for prompt, old, new in pairs
        ]

    def _write(self, name: str, value: Any, indent: int | None = None) -> None:
        path = metrics_path(self._trainer.args.output_dir).with_name(name)
        with suppress(OSError):
            path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def _as_json(found: Verdict, seen: Evidence, rows: list[Row], problem: str) -> dict[str, Any]:
    return {
        "learned": found.learned,
        "cause": found.cause,
        "trained_tensors": seen.trained,
        "changed_tensors": seen.changed_as_saved,
        "output_change": seen.output_change,
        "without_gradient": len(seen.without_gradient),
        "without_gradient_names": list(seen.without_gradient[:_NAMES]),
        "continuations": rows,
        "saved_model": problem or "equal",
    }


def first_and_last_losses(state: TrainerState) -> tuple[float, float] | None:
    """The mean losses of the first and of the last quarter of the steps; None for fewer than _FEWEST steps."""
    losses = [logs["loss"] for logs in state.log_history if "loss" in logs]
    part = len(losses) // 4
    return (fmean(losses[:part]), fmean(losses[-part:])) if len(losses) >= _FEWEST else None


def _saved_problem(trainer: Trainer, folder: str, precision: Precision, prompts: Sequence[Ids]) -> str:
    """How the saved model differs from the one in memory; the run has ended well, so that nothing is raised."""
    try:
        return saved_problem(trainer, folder, precision, prompts)
    except Exception as error:
        if is_sharded():
            raise
        return f"it could not be loaded again: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _print(found: Verdict, seen: Evidence, rows: list[Row], problem: str) -> None:
    if rows:
        print("\nthe likeliest continuations, before and after training")
    for row in rows:
        after = row["after"] if row["changed"] else "unchanged"
        print(f"  ? {row['prompt']}\n    before: {row['before']}\n    after:  {after}")
    for note in found.notes:
        print(note)
    if found.learned:
        moved = sum(row["changed"] for row in rows)
        outputs = f", {moved} of {len(rows)} continuations" if rows else ""
        print(f"learned: {seen.changed_as_saved:,} of {seen.trained:,} trained tensors changed{outputs}", flush=True)
    else:
        print(f"warning: nothing was learned: {found.cause}\n  hint: {found.hint}", flush=True)
    if problem:
        print(f"warning: the saved model is not the trained one: {problem}", flush=True)
