"""The launch plan as a page of text."""

import shlex
import textwrap
from collections.abc import Iterator

from rich.console import Console

from dimba.cli.wrapping import print_wrapped, width_of
from dimba.common.contract import LATEST
from dimba.common.units import millions, precision_words, quantity, size
from dimba.dataset.mixture import rows_per_epoch
from dimba.plan.model import LaunchPlan
from dimba.plan.pins import latest_releases

_GIB = 1 << 30


_INDENT = 12  # columns of a line's name
_AS_IS = ("command",)  # to be copied


def show_plan(plan: LaunchPlan, console: Console) -> None:
    """Print the plan, at most eighty columns wide except for the command, the paths and, on a pipe, sentences."""
    width = width_of(console)
    print_wrapped(f"{plan.name}: {plan.mode}, {plan.method}, {plan.runner} runner", console, indent=2, width=width)
    for name, text in _plan_lines(plan, min(width, 80) - _INDENT):
        first, *rest = text.splitlines() or [""]
        for label, line in [(name, first), *(("", each) for each in rest)]:
            whole = f"  {label:<9} {line}"
            print_wrapped(whole, console, indent=_INDENT, width=len(whole) if name in _AS_IS else width)


def _plan_lines(plan: LaunchPlan, columns: int) -> list[tuple[str, str]]:
    base = plan.checkpoint
    facts = f" ({base.architecture}, {millions(base.parameters)} parameters)" if base.parameters else ""
    data, several = _data_line(plan), len(plan.data.sources)
    reference = quantity(several, "data set") if several else plan.data.reference
    lines = [
        ("base", base.reference + facts),
        ("data", "\n".join([reference + data, *_source_lines(plan)])),
        ("output", f"{plan.output_dir}, as user {plan.uid}:{plan.gid}"),
        ("image", _image_line(plan)),
        ("GPUs", ", ".join(f"{gpu.index} {gpu.name or ''}".strip() for gpu in plan.gpus) or "none"),
        ("steps", _steps_line(plan)),
        ("sharing", _sharing_line(plan, columns)),
        *([("speed", _filled("; ".join(plan.speed), columns))] if plan.speed else []),
        ("memory", _memory_line(plan, 2 if columns >= _TWO_TERMS else 1)),
        ("shm", f"{plan.shm_bytes / _GIB:.1f} GiB"),
        ("network", f"{plan.network or 'open'}: {plan.network_why}"),
        ("mounts", "\n".join(f"{'ro' if each.read_only else 'rw'} {each.target}" for each in plan.mounts)),
        ("env", _filled(" ".join(plan.as_json()["env"]), columns)),
        ("command", shlex.join(plan.argv)),
        ("flags", f"found in the trainer's {plan.flags_from}"),
    ]
    lines += [("trust", each) for each in trust_notes(plan)]
    lines += [("omitted", f"{each.key} {each.value}: the trainer has no flag for it") for each in plan.omitted]
    below = plan.data.report.notes if plan.data.report else ()  # the page of the data shows them
    notes = [each for each in (*plan.data.notes, *plan.notes) if each.removeprefix("data: ") not in below]
    return [*lines, *(("note", each) for each in notes)]


def trust_notes(plan: LaunchPlan) -> list[str]:
    """One line for each part of the spec that requires trust."""
    return [f"`dimba launch` asks, or needs --trust-spec: {each}" for each in plan.trust]


def _data_line(plan: LaunchPlan) -> str:
    summary = plan.data.summary
    if summary is None and plan.data.sources:
        return " (not all on this machine; `dimba data` reads them)"
    if summary is None:
        return " (on the Hub, not read; `dimba data` reads it)"
    files = f" of {len(plan.data.files):,} files" if len(plan.data.files) > 1 else ""
    rows = quantity(summary.usable, "row")
    text = f": {summary.format}, {f'streamed, the first {rows} read' if plan.data.streamed else rows}{files}"
    if summary.unusable:
        text += f", and {summary.unusable:,} unusable"
    return text if plan.data.report else f"{text} (`dimba data` shows their tokens)"


def _source_lines(plan: LaunchPlan) -> Iterator[str]:
    """A line for each of several data sets."""
    for each in plan.data.sources:
        summary, weight = each.summary, f"weight {each.weight:g}"
        if summary is None:
            yield f"  {each.reference} (on the Hub, not read), {weight}"
            continue
        unusable = f", and {summary.unusable:,} unusable" if summary.unusable else ""
        epoch = rows_per_epoch(each.weight, summary.usable)
        rows = f"{summary.format}, {quantity(summary.usable, 'row')}{unusable}"
        yield f"  {each.reference}: {rows}, {weight}: {epoch:,} per epoch"


def _image_line(plan: LaunchPlan) -> str:
    image = plan.image
    if image is None:
        return "none: the job runs on this machine without a container"
    state = "present" if image.id else "to be fetched" if image.key is None else "to be built"
    if image.key is not None and image.base_digest is None:
        state = "to be built; its key changes once its base is fetched"
    releases = f"; {latest_releases(image)}" if image.pins == LATEST else ""
    return f"{image.reference} ({state}{f'; on {image.base}' if image.base else ''}{releases})"


def _steps_line(plan: LaunchPlan) -> str:
    steps = plan.steps
    batch = f"{steps.effective_batch} rows per step"
    if steps.completions:
        prompts = steps.effective_batch // steps.completions
        batch = f"{prompts} prompt{'s' if prompts > 1 else ''} × {steps.completions} completions per step"
    if steps.processes > 1:
        text = f"{batch} = {steps.processes} processes × {steps.batch_size} × accumulation {steps.accumulation}"
    else:
        text = batch + (f" (gradient accumulation {steps.accumulation})" if steps.completions else "") + ", 1 process"
    if steps.per_epoch:
        text += f"; {steps.per_epoch:,} per epoch"
    return text + (f", {steps.total:,} in total" if steps.total else "; their number depends on the data, not read yet")


def _sharing_line(plan: LaunchPlan, columns: int) -> str:
    return _filled(f"{plan.strategy}, {precision_words(plan.precision)}: {plan.strategy_why}", columns)


def _filled(text: str, columns: int) -> str:
    return textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)


_TWO_TERMS = 64  # columns of two terms of memory
_TERMS = {
    "weights": "weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "buckets": "DDP's buckets",
    "gathered": "gathered layers",
    "reference": "reference model",
    "reward": "reward model",
    "copies": "copies (autocast)",
    "inputs": "kept activations",
    "layer": "one layer, computed",
    "mask": "attention mask",
    "head": "head, vocabulary",
    "cache": "keys and values",
    "sampling": "sampling",
    "vllm": "vLLM, assumed",
    "fragments": "fragments, assumed",
    "context": "CUDA, assumed",
}


def _memory_line(plan: LaunchPlan, per_line: int) -> str:
    memory = plan.memory
    if memory is None and plan.checkpoint.quantization:
        return f"unknown: at least the {size(plan.checkpoint.weight_bytes or 0)} of its packed weights"
    if memory is None:
        return "unknown: this machine has no safetensors of the checkpoint"
    if not memory.peak:
        head = f"{size(memory.model_states)} per process, plus activations"
    elif memory.lower_bound:
        head = f"at least {size(memory.total)} per process: activations unknown"
    else:
        head = f"{size(memory.total)} per process at its peak: {memory.peak}"
    terms = [f"{_TERMS[name]:<20}{size(value):>10}" for name, value in memory.terms.items() if value]
    return "\n".join([head, *("    ".join(terms[row : row + per_line]) for row in range(0, len(terms), per_line))])
