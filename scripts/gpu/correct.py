"""Whether training on the device is right: losses, saved models, resumed runs, attention, signals, memory."""

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from dimba.common.checkpoints import complete_checkpoints, step_of
from dimba.common.contract import EXIT_STOPPED
from dimba.objectives.registry import OBJECTIVES
from dimba.trainers.data.packing_probe import probe_packing
from scripts.gpu.checks import Context, Found
from scripts.gpu.jobs import STEPS, base, distance, flags, learning, losses, train
from scripts.gpu.results import ABSENT, FAILED, RIGHT, WRONG, Result

_ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
_METHODS = {"full": (), "lora": ("--use-lora",), "qlora": ("--use-qlora",)}
_MOST = {"no": 1e-3, "bf16": 0.02, "fp16": 0.02}  # of the float32 losses on the CPU
_MOST_QLORA = 0.1  # 4 bits are other weights
_MOST_RESUMED = 0.01
_HUGE = ("--batch-size", "4096", "--max-length", "2048", "--grad-accumulation-steps", "1")


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


def attention(context: Context) -> Found:
    """Packed rows against separate ones, per token, with every attention that there is."""
    dtypes = (torch.float32, torch.bfloat16) if context.device == "cuda" else (torch.float32,)
    for name in _ATTENTION:
        for dtype in dtypes:
            yield _probed(context, name, dtype)


def _probed(context: Context, name: str, dtype: torch.dtype) -> Result:
    case = f"{name} {str(dtype).removeprefix('torch.')}"
    try:
        model = AutoModelForCausalLM.from_pretrained(base(context), attn_implementation=name, dtype=dtype)
    except (ImportError, ValueError) as error:
        return context.result(case, ABSENT, str(error).splitlines()[0][:100])
    found = probe_packing(model.to(context.device))
    return context.result(case, RIGHT if found.is_exact else WRONG, found.reason, difference=found.difference)


def stop(context: Context) -> Found:
    """SIGINT and SIGTERM during a run save a checkpoint, from which it goes to its end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        yield _stopped(context, number)


def _stopped(context: Context, number: signal.Signals) -> Result:
    out, more = context.folder / f"stop-{number.name}", ("--device", context.device, "--max-steps", "2000")
    script = Path(__file__).parents[1] / "finetuning" / "finetune_sft.py"
    command = [sys.executable, str(script), *flags(context, "sft", out, *more)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        assert job.stdout, "it is a pipe"
        for line in job.stdout:
            if line.startswith("step "):
                break
        asked = time.monotonic()
        job.send_signal(number)
        job.stdout.read()
        status = job.wait()
    seconds, saved = time.monotonic() - asked, complete_checkpoints(out)
    right = status == EXIT_STOPPED and bool(saved)
    name = saved[0].name if saved else "no checkpoint"
    return context.result(number.name, RIGHT if right else WRONG, f"exit status {status}, {name}", stopped_in=seconds)


def memory(context: Context) -> Found:
    """A batch that no GPU holds ends with a refusal."""
    if context.device != "cuda":
        yield context.result("all", ABSENT, "needs a GPU")
        return
    status = train(context, "sft", context.folder / "memory", *_HUGE, "--device", "cuda", "--packing", "off")
    right = status not in (0, 1)
    yield context.result("too large a batch", RIGHT if right else WRONG, f"exit status {status}")
