"""Whether a run learned anything, from what was seen of it. Standard library only."""

from dataclasses import dataclass, field

_ROSE = 1.5  # times as high as at first
_UNMOVED = 1e-6  # the share of the logits that rounding in float32 changes


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen of a run's gradients and weights; `steps` and gradients are those of this attempt alone."""

    trained: int  # tensors
    without_gradient: tuple[str, ...] = ()
    steps: int = 0
    updates: int = 0  # steps with a learning rate above 0
    changed: int = 0  # tensors that differ from the base
    changed_as_saved: int = 0  # those that still do in the precision of the saved model
    precision: str = "float32"
    output_change: float | None = None  # of the logits, as a share; None if rounding hides small ones
    is_finite: bool = True
    is_resumed: bool = False
    has_equal_rewards: bool = False
    losses: tuple[float, float] | None = None  # at first and at last, where a loss that falls is learning


@dataclass(frozen=True)
class Verdict:
    """Whether the run learned; of one that did not, the cause and a hint."""

    learned: bool
    cause: str = ""
    hint: str = ""
    notes: tuple[str, ...] = field(default=())  # warnings about a run that did learn


_SAME_REWARDS = (
    "in every group all completions got the same reward",
    "use rows that are neither too easy nor too hard, or a reward with more grades; samples.jsonl has the completions",
)


def verdict(seen: Evidence) -> Verdict:
    """False only if nothing can have been learned: no gradient, no changed weight, or numbers that are none."""
    for has_happened, cause, hint in _causes(seen):
        if has_happened:
            return Verdict(False, cause, hint)
    return Verdict(True, notes=tuple(_notes(seen)))


def _causes(seen: Evidence) -> list[tuple[bool, str, str]]:
    had_gradient = len(seen.without_gradient) < seen.trained
    has_learned_before = seen.is_resumed and seen.changed_as_saved > 0  # an earlier attempt has learned
    steps = f"{seen.steps:,} step{'s' * (seen.steps != 1)}"
    return [
        (not seen.is_finite, "the trained model's logits are not numbers", "lower `training.learning_rate`"),
        (not seen.trained, "no tensor is trained", "train a part that the model has: see `method` and `lora`"),
        (seen.has_equal_rewards and not has_learned_before, *_SAME_REWARDS),
        (
            seen.steps > 0 and not had_gradient and not has_learned_before,
            f"every gradient was zero in {steps}",
            "look at what is trained: `dimba data` marks the trained tokens; the log names the trained tensors",
        ),
        (
            not seen.changed and seen.steps > 0 and not seen.updates,
            f"the learning rate was 0 in {steps}: the warm-up starts at 0",
            "train for more steps, or without warm-up",
        ),
        (not seen.changed, f"no weight changed in {steps}", "raise `training.learning_rate` or the number of steps"),
        (
            not seen.changed_as_saved,
            f"every change is smaller than {seen.precision}, the base's precision, can hold",
            "raise `training.learning_rate` or the number of steps, or train an adapter (`method: lora`)",
        ),
        (
            seen.output_change is not None and seen.output_change < _UNMOVED and not has_learned_before,
            f"the model's output is the base's: its logits moved by less than {_UNMOVED:g} of their size",
            "raise `training.learning_rate` or the number of steps",
        ),
    ]


def _notes(seen: Evidence) -> list[str]:
    experts = [name for name in seen.without_gradient if "expert" in name]
    others = [name for name in seen.without_gradient if "expert" not in name]
    notes = []
    if others and seen.steps:
        notes.append(
            f"warning: {len(others):,} of {seen.trained:,} trained tensors never had a gradient: {_some(others)}"
        )
    if experts and seen.steps:
        notes.append(f"{len(experts):,} tensors of experts had no gradient, as no token reached them: {_some(experts)}")
    if seen.losses and seen.losses[1] > _ROSE * seen.losses[0] > 0:
        first, last = seen.losses
        notes.append(f"warning: the loss rose from {first:.2f} to {last:.2f}: lower `training.learning_rate`")
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
