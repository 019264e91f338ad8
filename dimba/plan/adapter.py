"""The adapter of a job: the weights that it covers, and names that the base does not have. Pure."""

from collections.abc import Iterator
from difflib import get_close_matches

from dimba.common.errors import BadInput
from dimba.host.facts import CheckpointFacts
from dimba.options.lora_table import (
    ALL_LINEAR,
    INIT,
    MODULES_TO_SAVE,
    NOT_QUANTISED,
    START_HINT,
    TARGET_MODULES,
    is_pattern,
    matches,
)
from dimba.options.param import Param
from dimba.plan.job import ResolvedJob
from dimba.spec import JobSpec

_HEAD = "lm_head"  # a head that shares the embedding's weights is in no file
_SHOWN = 12  # names in a hint


def adapter_parameters(job: ResolvedJob, checkpoint: CheckpointFacts) -> int:
    """Parameters that are trained beside a frozen base: the adapter's, and the modules that are trained whole."""
    lora, sides = job.lora, checkpoint.linear_sides or {}
    targets = {name: both for name, both in sides.items() if any(matches(each, name) for each in lora.targets)}
    whole = [
        count
        for name, count in checkpoint.modules.items()
        if any(matches(each, name) or f".{each}." in f".{name}." for each in lora.modules_to_save)
    ]
    # DoRA adds a magnitude for each output; half of both sides is near enough for it.
    magnitudes = sum(targets.values()) // 2 if lora.use_dora else 0
    return lora.r * sum(targets.values()) + magnitudes + sum(whole)


def adapter_problems(job: ResolvedJob, checkpoint: CheckpointFacts) -> Iterator[BadInput]:
    """What `lora` asks for and the base does not have, as far as the names in its files tell.

    Transformers renames some modules while loading, such as fused experts: a base with experts is left to the trainer.
    """
    if job.method == "qlora" and job.lora.init in NOT_QUANTISED:
        yield BadInput(f"{job.lora.init} needs a base that is not quantised", START_HINT, key=INIT.key)
    names = {part for module in checkpoint.modules for part in module.split(".") if not part.isdecimal()}
    if not names or "experts" in names or checkpoint.quantization or job.method == "full":
        return
    for param, wanted in ((TARGET_MODULES, job.lora.targets), (MODULES_TO_SAVE, job.lora.modules_to_save)):
        for each in wanted:
            last = each.rpartition(".")[2]
            if each not in (ALL_LINEAR, _HEAD) and not is_pattern(each) and last not in names:
                yield _unknown(each, param, names)


def _unknown(name: str, param: Param, names: set[str]) -> BadInput:
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"its modules: {', '.join(sorted(names)[:_SHOWN])}"
    return BadInput(f"no module of the base is named `{name}`", hint, key=param.key)


def unused_notes(spec: JobSpec) -> list[str]:
    """One line on the keys of `lora` that a job without an adapter does not use."""
    given = sorted(spec.lora.model_fields_set - {"r", "alpha"})
    if spec.method != "full" or not given:
        return []
    return [f"lora: {', '.join(given)} without effect: `method: full` trains every weight, without an adapter"]
