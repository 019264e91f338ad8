"""Step 4: VRAM budget, GPUs and method."""

from collections.abc import Sequence
from typing import Any

from dimba.common.units import size
from dimba.host.facts import EngineFacts, Gpu, GpuFacts
from dimba.host.gpus import cdi_device
from dimba.objectives.budgets import BUDGETS, nominal_gb
from dimba.options import table
from dimba.wizard.answers import Choice, InvalidAnswer, one_of
from dimba.wizard.defaults import largest_gb, recommended_method
from dimba.wizard.lines import Line
from dimba.wizard.machine import engine_facts, gpu_facts
from dimba.wizard.preview import memory_of
from dimba.wizard.question import Question, from_param
from dimba.wizard.state import State

# By the memory that they need.
_LABELS = {
    "qlora": "Q-LoRA  adapter on a 4-bit base ",
    "lora": "LoRA    adapter on a 16-bit base",
    "full": "full    every weight, in 32 bits",
}
_SIZES = ", ".join(map(str, BUDGETS))


# VRAM.


def _usable(state: State) -> tuple[Gpu, ...]:
    return () if state.answers.get("gpus") in ("none", 0) else gpu_facts(state).gpus


def _vram_default(state: State) -> int | None:
    gpus = _usable(state)
    return (largest_gb(gpus) or BUDGETS[0]) if gpus else None


def _vram_choices(state: State) -> Sequence[Choice]:
    gpus = _usable(state)
    here = largest_gb(gpus)
    budgets = sorted({*BUDGETS, here} if here and BUDGETS[0] < here < BUDGETS[-1] else BUDGETS)
    choices = [_budget(each, here) for each in budgets]
    return choices if gpus else [Choice(None, "none: no GPU, train on the CPU", "none"), *choices]


def _budget(gb: int, here: int | None) -> Choice:
    ours = here is not None and (gb == here or (gb == BUDGETS[-1] and here > gb))
    name = f"{gb}{'+' if gb == BUDGETS[-1] else ''} GB"
    return Choice(
        here if ours else gb, f"{name:<7} {f'the largest GPU here: {here} GB' if ours else ''}".rstrip(), name
    )


def _parse_vram(text: str, _state: State) -> int | None:
    plain = text.strip().lower().removesuffix("gb").strip().removesuffix("+")
    if plain in ("none", "cpu", "0"):
        return None
    try:
        number = float(plain)
    except ValueError:
        number = 0.0
    if not 0 < number < 10_000:
        raise InvalidAnswer(f"VRAM budget `{text}` is not a size in GB", f"one of {_SIZES}+, or the size of your GPU")
    # A GPU of 24 GB reports 23.6.
    return int(number) if number == int(number) else nominal_gb(round(number * 1024))


def _gpu_lines(state: State) -> list[Line]:
    """The GPUs of this machine, and whether the engine can pass them through."""
    gpu = gpu_facts(state)
    if not gpu.gpus:
        return [Line(f"No GPU found: {gpu.problem}", "warn")]
    lines = [Line(text, "good") for text in _grouped(gpu.gpus)]
    if largest_gb(gpu.gpus) is None:
        problem = gpu.problem or gpu.source
        lines.append(Line(f"Their memory is unknown ({problem}): the smallest budget is the default", "warn"))
    return [*lines, _engine_line(gpu, engine_facts(state))]


def _grouped(gpus: tuple[Gpu, ...]) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for gpu in gpus:
        kinds.setdefault(f"{gpu.name or 'unnamed'}{_size(gpu)}", []).append(str(gpu.index))
    return [f"{len(each)} × {kind} (GPU {', '.join(each)})" for kind, each in kinds.items()]


def _engine_line(gpu: GpuFacts, engine: EngineFacts) -> Line:
    if not engine.reachable:
        return Line(f"No container engine ({engine.problem}): the job will run as a process on this machine.", "warn")
    if all(cdi_device(each, engine.cdi_devices) for each in gpu.gpus):
        return Line(f"Docker {engine.version} passes them through by CDI; `dimba doctor` tests it.", "dim")
    return Line(
        f"Docker {engine.version} does not list them; `dimba doctor` tests whether it can pass them through.", "dim"
    )


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
        raise InvalidAnswer(f"GPUs `{text}` is not all, none, a number or a list", "for example all, 2, or 0,1")
    if len(set(items)) < len(items):
        raise InvalidAnswer(f"GPUs `{text}` names a GPU twice", "name each once")
    return [int(item) if item.isdecimal() else item for item in items]


def _gpus_default(state: State) -> str:
    return "none" if state.value("vram") is None and gpu_facts(state).gpus else "all"


def _check_gpus(value: Any, state: State) -> None:
    """Raise InvalidAnswer for GPUs that this machine lacks; without any GPU the spec is for another machine."""
    gpus = gpu_facts(state).gpus
    if not gpus or value in ("all", "none"):
        return
    if value == []:
        raise InvalidAnswer(
            "no GPU chosen", "mark at least one with the space bar; for the CPU, choose the budget `none`"
        )
    known = {gpu.index for gpu in gpus} | {gpu.uuid for gpu in gpus}
    wanted = list(range(value)) if isinstance(value, int) else value
    if any(item not in known for item in wanted):
        raise InvalidAnswer(
            f"GPUs {show_gpus(value)}: this machine has {len(gpus)} ({', '.join(str(gpu.index) for gpu in gpus)})",
            "give `all`",
        )


def show_gpus(value: Any) -> str:
    """The text that one types for a value."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _size_warning(state: State) -> list[Line]:
    """A warning for GPUs of different sizes: every process has the same batch, so the smallest decides."""
    value = state.value("gpus")
    chosen = [gpu for gpu in _usable(state) if not isinstance(value, list) or gpu.index in value or gpu.uuid in value]
    sizes = sorted({nominal_gb(gpu.memory_mib) for gpu in chosen if gpu.memory_mib})
    if len(sizes) < 2 or (state.value("vram") or 0) <= sizes[0]:
        return []
    have = " and ".join(map(str, sizes))
    text = f"The GPUs have {have} GB, and each gets the same batch: a budget of {sizes[0]} GB fits all"
    return [Line(text, "warn")]


# Method.


def _recommended(state: State) -> tuple[str, str]:
    return recommended_method(state.value("vram"))


def _method_choices(state: State) -> Sequence[Choice]:
    best, why = _recommended(state)
    marks = {best: f"  recommended, {why}"}
    return [
        Choice(method, f"{label}  {_memory(state, method)}{marks.get(method, '')}", method)
        for method, label in _LABELS.items()
    ]


def _parse_method(text: str, _state: State) -> str:
    plain = text.strip().lower().replace("-", "")
    return str(one_of([Choice(method, method) for method in _LABELS], plain, "method"))


def _memory(state: State, method: str) -> str:
    """The least memory of one process; empty without facts of the checkpoint."""
    estimate = memory_of(state, method)
    return f"{size(estimate.total):>9} +" if estimate else ""


def _method_note(state: State) -> list[Line]:
    estimate = memory_of(state, "lora")
    if estimate is None:
        return []
    has_activations = bool(estimate.peak) and not estimate.lower_bound
    note = "at its peak with one row per batch" if has_activations else "without activations"
    return [Line(f"+: the estimate for one process, {note}.", "dim")]


QUESTIONS = (
    Question(
        key="vram",
        step=4,
        label="VRAM budget per GPU",
        flag="--vram",
        metavar="GB",
        help=f"{_SIZES}+, or the size of your GPU in GB; none for the CPU",
        kind="choice",
        choices=_vram_choices,
        default=_vram_default,
        parse=_parse_vram,
        to_text=lambda value: "none" if value is None else str(value),
        before=_gpu_lines,
    ),
    from_param(
        table.GPUS,
        step=4,
        kind="many",
        choices=_gpu_choices,
        default=_gpus_default,
        parse=parse_gpus,
        to_text=show_gpus,
        check=_check_gpus,
        after=_size_warning,
        is_asked=lambda state: len(gpu_facts(state).gpus) > 1 and state.value("vram") is not None,
    ),
    from_param(
        table.METHOD,
        step=4,
        kind="choice",
        choices=_method_choices,
        default=lambda state: _recommended(state)[0],
        parse=_parse_method,
        before=_method_note,
    ),
)
