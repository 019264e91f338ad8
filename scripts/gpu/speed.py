"""How quick a step is on this GPU: a share of its matrix rate, against plain TRL, and by each choice of kernels.

Model FLOPs of a token: 6 per weight of the layers and the head (4 under an adapter, whose base needs no gradients of
its weights), and for causal attention 6 × layers × width of the heads × length. Adapters and recomputing add none.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from dimba.common.errors import BadInput
from scripts.bench.memory import MODELS
from scripts.gpu.context import Context, Found
from scripts.gpu.results import ABSENT, FAILED, RIGHT, WRONG, Result
from scripts.gpu.speed_jobs import Speed, SpeedCase, ours, plain_trl, tiny_of

_SIZE = {"cuda": 8192, "cpu": 512}  # of the matrices
_FULL = SpeedCase("llama-1B", "full", 4, 2048)
_LORA = SpeedCase("llama-1B", "lora", 4, 2048)
_LARGE = SpeedCase("llama-8B", "lora", 2, 4096, steps=5)
_GRPO = SpeedCase("llama-1B", "lora", 32, 512, mode="grpo", steps=3, completion=256)
_CHOICES = {
    "kernels own": ("--kernels", "own", "--compile", "off"),
    "kernels liger": ("--kernels", "liger", "--compile", "off"),
    "compiled": ("--compile", "on"),
    "recomputed": ("--activation-checkpointing", "on"),
    "sdpa": ("--attention", "sdpa"),
    "padded": ("--packing", "off"),
    "8-bit AdamW": ("--optimizer", "adamw_8bit"),
}


def utilisation(context: Context) -> Found:
    """The matrix rate, and the shares of it that full fine-tuning and LoRA of 1 B parameters reach; LoRA of 8 B."""
    rate = _matrix_rate(context)
    yield context.result("bf16 matrices", RIGHT, **_card(context), tflops=rate / 1e12)
    for case, least in ((_FULL, 0.50), (_LORA, 0.45)):
        yield from _tried(context, case.name, partial(_share, context, case, rate, least))
    yield from _tried(context, _LARGE.name, partial(_large, context, _LARGE))


def against_trl(context: Context) -> Found:
    """Tokens a second against `trl sft` at its defaults and with its packing, on rows of mixed lengths."""
    case = replace(_LORA, mixed=True, batch=8)
    yield from _ratios(context, case, {"trl sft": ({}, 1.3), "trl sft --packing": ({"packing": True}, 1.0)})
    installed = find_spec("unsloth") is not None
    yield context.result("unsloth", ABSENT, "no measurement of it yet" if installed else "not installed")


def choices(context: Context) -> Found:
    """Each choice for speed turned on or off, against the defaults."""
    case = replace(_LORA, mixed=True, batch=8)
    found = list(_tried(context, "defaults", partial(_plain, context, case)))
    yield from found
    default = found[0].measured.get("rate")
    for name, flags in _CHOICES.items():
        with_flags = replace(case, flags=flags)
        yield from _tried(context, name, partial(_plain, context, with_flags, default))


def quantised(context: Context) -> Found:
    """Q-LoRA against LoRA, of 8 B parameters."""
    yield from _tried(context, "qlora over lora", partial(_quantised, context))


def grpo(context: Context) -> Found:
    """Completions a second against plain TRL."""
    yield from _ratios(context, _GRPO, {"trl grpo": ({}, 1.5)})


def _card(context: Context) -> dict[str, str]:
    return {"card": torch.cuda.get_device_name() if context.device == "cuda" else "cpu"}


def _tried(context: Context, name: str, measure: Callable[[], Result]) -> Iterator[Result]:
    """The measurement, or why there is none: the others must still run."""
    try:
        found = measure()
    except BadInput as error:
        yield context.result(name, ABSENT, str(error).partition("\n")[0])
        return
    except (Exception, SystemExit) as error:  # a kernel or a library
        line = next(iter(str(error).strip().splitlines()), "")
        yield context.result(name, FAILED, f"{type(error).__name__}: {line}"[:200])
        return
    yield replace(found, case=name, measured={**_card(context), **found.measured})


def _case(context: Context, case: SpeedCase) -> SpeedCase:
    return tiny_of(case) if context.tiny else case


def _at_least(context: Context, value: float, least: float) -> str:
    """Whether a target is reached, which only a GPU can tell."""
    return RIGHT if value >= least or context.device == "cpu" else WRONG


def _plain(context: Context, case: SpeedCase, default: float | None = None) -> Result:
    speed = ours(_case(context, case), context)
    ratio: dict[str, Any] = {"over_defaults": speed.rate / default} if default else {}
    return context.result(case.name, RIGHT, rate=speed.rate, step=speed.step, **ratio)


def _share(context: Context, case: SpeedCase, rate: float, least: float) -> Result:
    case = _case(context, case)
    speed = ours(case, context)
    share = speed.rate * flops(case) / rate
    outcome = _at_least(context, share, least)
    return context.result(case.name, outcome, rate=speed.rate, step=speed.step, share=share, target=least)


def _large(context: Context, case: SpeedCase) -> Result:
    speed = ours(_case(context, case), context)
    outcome = _at_least(context, speed.rate, 12_500)
    return context.result(case.name, outcome, rate=speed.rate, step=speed.step, target=12_500)


def _quantised(context: Context) -> Result:
    lora, qlora = (_case(context, replace(_LARGE, method=each)) for each in ("lora", "qlora"))
    one, other = ours(lora, context), ours(qlora, context)
    share = other.rate / one.rate
    outcome = _at_least(context, share, 0.7)
    return context.result("", outcome, lora=one.rate, qlora=other.rate, share=share, target=0.7)


def _ratios(context: Context, case: SpeedCase, peers: dict[str, tuple[dict[str, object], float]]) -> Iterator[Result]:
    """Our speed against each peer's, measured one after the other in one run."""
    case = _case(context, case)
    mine: list[Speed] = []
    for name, (settings, least) in peers.items():

        def measure(settings: dict[str, object] = settings, least: float = least) -> Result:
            if not mine:
                mine.append(ours(case, context))
            theirs = plain_trl(case, context, **settings)
            ratio = mine[0].rate / theirs.rate
            outcome = _at_least(context, ratio, least)
            return context.result("", outcome, ours=mine[0].rate, theirs=theirs.rate, ratio=ratio, target=least)

        yield from _tried(context, name, measure)


def flops(case: SpeedCase) -> float:
    """Model FLOPs of a token in training, as this module's first lines count them."""
    numbers = MODELS[case.model][1]
    hidden, layers, inner = numbers["hidden_size"], numbers["num_hidden_layers"], numbers["intermediate_size"]
    size = numbers.get("head_dim") or hidden // numbers["num_attention_heads"]
    heads, groups = numbers["num_attention_heads"], numbers["num_key_value_heads"]
    block = hidden * size * (2 * heads + 2 * groups) + 3 * hidden * inner
    weights = layers * block + numbers["vocab_size"] * hidden
    return float((6 if case.method == "full" else 4) * weights + 6 * layers * heads * size * case.length)


def _matrix_rate(context: Context) -> float:
    """FLOPs a second of a product of large bf16 matrices."""
    size, rounds = _SIZE[context.device], 20 if context.device == "cuda" else 2
    one, other = (torch.randn(size, size, device=context.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    _wait(context)
    began = time.perf_counter()
    for _ in range(rounds):
        one @ other
    _wait(context)
    return rounds * 2 * size**3 / (time.perf_counter() - began)


def _wait(context: Context) -> None:
    if context.device == "cuda":
        torch.cuda.synchronize()
