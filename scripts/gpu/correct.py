"""Whether training on the device is right: losses, saved models, resumed runs."""

import math

from dimba.common.checkpoints import complete_checkpoints, step_of
from dimba.objectives.registry import OBJECTIVES
from scripts.gpu.context import Context, Found
from scripts.gpu.jobs import STEPS, distance, learning, losses, train
from scripts.gpu.results import FAILED, RIGHT, WRONG, Result

_METHODS = {"full": (), "lora": ("--use-lora",), "qlora": ("--use-qlora",)}
_MOST = {"no": 1e-3, "bf16": 0.02, "fp16": 0.02}  # of the float32 losses on the CPU
_MOST_QLORA = 0.1  # 4 bits are other weights
_MOST_RESUMED = 0.01


def sft(context: Context) -> Found:
    """SFT in every method and precision, against float32 on the CPU."""
    yield from _trained(context, "sft", compares=True)


def dpo(context: Context) -> Found:
    """The same for DPO."""
    yield from _trained(context, "dpo", compares=True)


def grpo(context: Context) -> Found:
    """GRPO: a GPU draws other completions than a CPU, so the losses are not compared."""
    yield from _trained(context, "grpo", compares=False)


def _trained(context: Context, mode: str, *, compares: bool) -> Found:
    for method, chosen in _METHODS.items():
        reference: list[float] = []
        if compares:
            out = context.folder / f"{mode}-{method}-reference"
            way = _METHODS["lora"] if method == "qlora" else chosen
            if train(context, mode, out, *way, "--device", "cpu", "--mixed-precision", "no"):
                yield context.result(f"{method} reference", FAILED)
                continue
            reference = losses(out)
        for precision in _precisions(context):
            yield _one(context, mode, f"{method} {precision}", reference, *chosen, *_precision(mode, precision))
    yield _resumed(context, mode)


def _precisions(context: Context) -> tuple[str, ...]:
    return ("bf16", "fp16") if context.device == "cuda" else ("no",)


def _precision(mode: str, precision: str) -> tuple[str, ...]:
    has_flag = "mixed_precision" in OBJECTIVES[mode].params
    return ("--mixed-precision", precision) if has_flag else ()


def _one(context: Context, mode: str, case: str, reference: list[float], *more: str) -> Result:
    out = context.folder / f"{mode}-{case.replace(' ', '-')}"
    if status := train(context, mode, out, *more, "--device", context.device):
        return context.result(case, FAILED, f"exit status {status}")
    found, seen = losses(out), learning(out)
    method, _, precision = case.partition(" ")
    most = _MOST_QLORA if method == "qlora" else _MOST[precision]
    away = distance(found, reference) if reference else 0.0
    right = len(found) == STEPS and all(map(math.isfinite, found)) and away <= most and seen["saved_model"] == "equal"
    measured = {"away": away, "first": found[0], "last": found[-1], "learned": seen["learned"]}
    return context.result(case, RIGHT if right else WRONG, f"saved model {seen['saved_model']}", **measured)


def _resumed(context: Context, mode: str) -> Result:
    """The second half of a run, from its checkpoint."""
    precision = _precisions(context)[0]
    whole, part = (context.folder / f"{mode}-{name}" for name in (f"lora-{precision}", "resumed"))
    more = ("--use-lora", *_precision(mode, precision), "--device", context.device)
    checkpoints = [each for each in complete_checkpoints(whole) if step_of(each) < STEPS]
    if not checkpoints:
        return context.result("resumed", FAILED, "no checkpoint")
    if status := train(context, mode, part, *more, "--resume-from-checkpoint", str(checkpoints[0])):
        return context.result("resumed", FAILED, f"exit status {status}")
    expected = losses(whole)[-len(losses(part)) :]
    away = max(abs(one - two) for one, two in zip(losses(part), expected, strict=True))
    return context.result("resumed", RIGHT if away <= _MOST_RESUMED else WRONG, largest_difference=away)
