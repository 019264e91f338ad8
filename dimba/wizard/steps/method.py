"""Step 4: how much memory, which GPUs, which method."""

from collections.abc import Sequence
from typing import Any

from dimba.common.units import size
from dimba.host.facts import EngineFacts, Gpu, GpuFacts
from dimba.host.gpus import cdi_device
from dimba.objectives.budgets import BUDGETS, nominal_gb
from dimba.wizard.defaults import largest_gb, recommended_method
from dimba.wizard.machine import engine_facts, gpu_facts
from dimba.wizard.preview import memory_of
from dimba.wizard.question import Choice, Question, Said, Wrong, one_of
from dimba.wizard.state import State

_METHODS = {
    "qlora": "adapter on a 4-bit base ",
    "lora": "adapter on a 16-bit base",
    "full": "every weight, in 32 bits",
}
_NAMES = {"qlora": "Q-LoRA", "lora": "LoRA", "full": "full"}


# VRAM.


def _usable(state: State) -> tuple[Gpu, ...]:
    return () if state.answers.get("gpus") in ("none", 0) else gpu_facts(state).gpus


def _vram_default(state: State) -> int | None:
    gpus = _usable(state)
    return (largest_gb(gpus) or BUDGETS[0]) if gpus else None


def _vram_choices(state: State) -> Sequence[Choice]:
    gpus = _usable(state)
    here = largest_gb(gpus)
    budgets = sorted({*BUDGETS, here} if here and 4 < here < 40 else BUDGETS)
    choices = [_budget(each, here) for each in budgets]
    return choices if gpus else [Choice(None, "none: no GPU, train on the CPU", "none"), *choices]


def _budget(gb: int, here: int | None) -> Choice:
    ours = here is not None and (gb == here or (gb == BUDGETS[-1] and here > gb))
    name = f"{gb}{'+' if gb == BUDGETS[-1] else ''} GB"
    value = here if ours else gb
    return Choice(value, f"{name:<7} {f'the largest card here: {here} GB' if ours else ''}".rstrip(), name)


def _parse_vram(text: str, _state: State) -> int | None:
    plain = text.strip().lower().removesuffix("gb").strip().removesuffix("+")
    if plain in ("none", "cpu", "0"):
        return None
    try:
        number = float(plain)
    except ValueError:
        number = 0.0
    if not 0 < number < 10_000:
        raise Wrong(f"VRAM budget `{text}` is not a size in GB", "one of 4, 8, 16, 24, 40+, or your card's size")
    # 23.6 is what a card of 24 GB reports.
    return int(number) if number == int(number) else nominal_gb(round(number * 1024))


def _cards(state: State) -> list[Said]:
    """What `nvidia-smi` found, and whether the engine can pass it through."""
    gpu = gpu_facts(state)
    if not gpu.gpus:
        return [Said(f"No GPU found: {gpu.problem}", "warn")]
    lines = [Said(text, "good") for text in _grouped(gpu.gpus)]
    if largest_gb(gpu.gpus) is None:
        lines.append(
            Said(f"How large is not known ({gpu.problem or gpu.source}): the smallest budget is taken", "warn")
        )
    return [*lines, _passed_through(gpu, engine_facts(state))]


def _grouped(gpus: tuple[Gpu, ...]) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for gpu in gpus:
        kinds.setdefault(f"{gpu.name or 'unnamed'}{_size(gpu)}", []).append(str(gpu.index))
    return [f"{len(each)} × {kind} (GPU {', '.join(each)})" for kind, each in kinds.items()]


def _passed_through(gpu: GpuFacts, engine: EngineFacts) -> Said:
    if not engine.reachable:
        return Said(f"No container engine ({engine.problem}): it will run as a process here.", "warn")
    if all(cdi_device(card, engine.cdi_devices) for card in gpu.gpus):
        return Said(f"Docker {engine.version} passes them through by CDI; `dimba doctor` tries it.", "dim")
    return Said(f"Docker {engine.version} does not list them; `dimba doctor` tries whether it passes them.", "dim")


# Which GPUs.


def _gpu_choices(state: State) -> Sequence[Choice]:
    return [
        Choice(gpu.index, f"{gpu.index}  {gpu.name or 'unnamed'}{_size(gpu)}", str(gpu.index))
        for gpu in gpu_facts(state).gpus
    ]


def _size(gpu: Gpu) -> str:
    return f", {nominal_gb(gpu.memory_mib)} GB" if gpu.memory_mib else ""


def parse_gpus(text: str, state: State) -> Any:
    """`all`, `none`, a number, or a list of indices or UUIDs such as `0,1`."""
    text = text.strip()
    if text in ("all", "none"):
        return text
    if text.isdecimal():
        return int(text)
    items = [item.strip() for item in text.strip("[]").split(",") if item.strip()]
    if not items or not all(item.isdecimal() or item.startswith(("GPU-", "MIG-")) for item in items):
        raise Wrong(f"GPUs `{text}` is none of all, none, a number, a list", "for example all, 2, or 0,1")
    if len(set(items)) < len(items):
        raise Wrong(f"GPUs `{text}` names one twice", "name each once")
    return [int(item) if item.isdecimal() else item for item in items]


def _gpus_default(state: State) -> str:
    return "none" if state.value("vram") is None and gpu_facts(state).gpus else "all"


def _check_gpus(value: Any, state: State) -> None:
    """What this machine cannot give is a mistake, unless it has no GPU: then the spec is for another machine."""
    gpus = gpu_facts(state).gpus
    if not gpus or value in ("all", "none"):
        return
    if value == []:
        raise Wrong("no GPU chosen", "mark at least one with the space bar; the CPU is `none`")
    known = {gpu.index for gpu in gpus} | {gpu.uuid for gpu in gpus}
    asked = list(range(value)) if isinstance(value, int) else value
    if any(item not in known for item in asked):
        shown = f"{value} of them" if isinstance(value, int) else ",".join(map(str, value))
        raise Wrong(f"GPUs {shown}: this machine has {len(gpus)} ({', '.join(str(gpu.index) for gpu in gpus)})", "all")


def show_gpus(value: Any) -> str:
    """As one would type it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _unlike(state: State) -> list[Said]:
    """Every process has the same batch: the smallest card decides."""
    value = state.value("gpus")
    chosen = [gpu for gpu in _usable(state) if not isinstance(value, list) or gpu.index in value or gpu.uuid in value]
    sizes = sorted({nominal_gb(gpu.memory_mib) for gpu in chosen if gpu.memory_mib})
    if len(sizes) < 2 or (state.value("vram") or 0) <= sizes[0]:
        return []
    have = " and ".join(map(str, sizes))
    text = f"The cards have {have} GB, and each gets the same batch: a budget of {sizes[0]} fits all"
    return [Said(text, "warn")]


# Method.


def _recommended(state: State) -> tuple[str, str]:
    return recommended_method(state.value("vram"))


def _method_choices(state: State) -> Sequence[Choice]:
    best, why = _recommended(state)
    lines = []
    for method in ("qlora", "lora", "full"):
        mark = f"  recommended, {why}" if method == best else ""
        lines.append(Choice(method, f"{_NAMES[method]:<7} {_METHODS[method]}  {_memory(state, method)}{mark}", method))
    return lines


def _parse_method(text: str, _state: State) -> str:
    plain = text.strip().lower().replace("-", "")
    return str(one_of([Choice(method, method) for method in _METHODS], plain, "method"))


def _memory(state: State, method: str) -> str:
    """What one process needs at least; nothing where the checkpoint is not at hand."""
    estimate = memory_of(state, method)
    return f"{size(estimate.total):>9} +" if estimate else ""


def _method_note(state: State) -> list[Said]:
    estimate = memory_of(state, "lora")
    if estimate is None:
        return []
    counted = bool(estimate.peak) and not estimate.lower_bound
    note = "at its peak with one row at a time" if counted else "without activations"
    return [Said(f"+: estimated for one process, {note}.", "dim")]


QUESTIONS = (
    Question(
        key="vram",
        step=4,
        ask="VRAM budget of one card",
        flag="--vram",
        metavar="GB",
        help="4, 8, 16, 24, 40+, or a card's size in GB; none for the CPU",
        kind="choice",
        choices=_vram_choices,
        default=_vram_default,
        parse=_parse_vram,
        show=lambda value: "none" if value is None else str(value),
        before=_cards,
    ),
    Question(
        key="gpus",
        step=4,
        ask="Which GPUs",
        flag="--gpus",
        metavar="WHICH",
        help="all, none, a number, or a list such as 0,1",
        kind="many",
        choices=_gpu_choices,
        default=_gpus_default,
        parse=parse_gpus,
        show=show_gpus,
        check=_check_gpus,
        after=_unlike,
        asked=lambda state: len(gpu_facts(state).gpus) > 1 and state.value("vram") is not None,
    ),
    Question(
        key="method",
        step=4,
        ask="Method",
        flag="--method",
        metavar="full|lora|qlora",
        help="what is trained",
        kind="choice",
        choices=_method_choices,
        default=lambda state: _recommended(state)[0],
        parse=_parse_method,
        before=_method_note,
    ),
)
