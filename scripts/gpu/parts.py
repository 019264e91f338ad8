"""The parts of `make gpu` and their checks: a new check is a line here and a function in the part's module."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from scripts.gpu.context import Context
from scripts.gpu.results import Result

PART_SECONDS = 480.0  # for all checks of a part together
# Checks that run at the same time; one where times or memory are measured.
AT_ONCE: dict[str, dict[str, int]] = {"cuda": {"correct": 3}, "cpu": {"correct": 2, "memory": 2, "speed": 2}}


@dataclass(frozen=True)
class Check:
    """A function `name` of a module of `scripts.gpu`, and its longest time in seconds.

    The function takes a Context and yields its results as they come. The module is the part's own, unless it is named.
    One that `continues` starts after its own results, if it was ended; those of another check are dropped then.
    """

    name: str
    seconds: float
    module: str = ""
    continues: bool = False


PARTS: dict[str, tuple[Check, ...]] = {
    "correct": (
        Check("sft", 240),
        Check("dpo", 240),
        Check("grpo", 240),
        Check("masked", 240),
        Check("attention", 240, "attention"),
        Check("one_card", 180, "ranks"),
        Check("two_cards", 240, "ranks"),
        Check("shared_rows", 180, "ranks"),
        Check("stop", 150, "ends"),
        Check("recompute", 180, "limits"),
        Check("out_of_memory", 120, "limits"),
    ),
    "memory": (Check("estimate", 460, continues=True),),
    "speed": (
        Check("utilisation", 110),
        Check("against_trl", 90),
        Check("choices", 120),
        Check("quantised", 70),
        Check("grpo", 90),
    ),
    "launcher": (
        Check("probes", 60),
        Check("doctor", 90),
        Check("jobs", 460, "engine_jobs"),
    ),
}


def function_of(part: str, check: str) -> Callable[[Context], Iterator[Result]]:
    """The function of a check; its module imports libraries that take seconds, so it is imported here only."""
    module = next(each.module for each in PARTS[part] if each.name == check) or part
    found: Callable[[Context], Iterator[Result]] = getattr(import_module(f"scripts.gpu.{module}"), check)
    return found
