"""The preview: the spec's text, the command, omitted values, and whether this machine can run the job."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dimba.common.contract import absolute
from dimba.common.errors import DimbaError
from dimba.common.runners import AUTO, RUNNERS
from dimba.host.facts import TrainerFacts
from dimba.host.stamp import stamp
from dimba.host.trainer import find_trainer
from dimba.objectives.registry import OBJECTIVES
from dimba.options.table import LORA_R, METHOD
from dimba.wizard.answers import InvalidAnswer
from dimba.wizard.facts import base_facts
from dimba.wizard.lines import Line
from dimba.wizard.machine import engine, gpu_facts
from dimba.wizard.spec import spec_values, trainer_name, wanted_trainer_args
from dimba.wizard.state import State

if TYPE_CHECKING:
    from dimba.jobs.context import JobContext
    from dimba.plan.model import LaunchPlan, MemoryEstimate
    from dimba.spec import LoadedSpec

_COMMAND_WIDTH = 74


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The spec's text beside its plan, or the problem that prevents a plan."""

    text: str
    plan: "LaunchPlan | None"
    problem: DimbaError | None
    omitted: tuple[str, ...]


def preview(state: State, *, anew: bool = False) -> Preview:
    """Plan the job as `dimba launch` would; `anew` plans again, as the user may have fixed a problem.

    A problem of this machine is part of the result.
    """
    flags = trainer_facts(state).flags
    text = spec_text(state, flags)
    name = ("preview", text, _trainer_key(state))
    if anew:
        state.probes.forget(name)
    return state.probe(name, "planning", lambda: _plan_text(state.in_background(), text, flags))


def _plan_text(state: State, text: str, flags: frozenset[str]) -> Preview:
    from dimba.spec import parse_spec

    loaded = parse_spec(text.encode(), source="the spec")
    missing = [f"{name} {value}" for name, value in wanted_trainer_args(state).items() if f"--{name}" not in flags]
    try:
        plan = _context(state, loaded).plan()
    except DimbaError as error:
        return Preview(text=text, plan=None, problem=error, omitted=tuple(missing))
    omitted = (*(f"{each.key} {each.value}".strip() for each in plan.omitted), *missing)
    return Preview(text=text, plan=plan, problem=None, omitted=omitted)


def spec_text(state: State, flags: frozenset[str]) -> str:
    """The spec as YAML, with comments for its reader."""
    from dimba.spec import spec_yaml

    return spec_yaml(spec_values(state, flags), "./job.schema.json", comments=_COMMENTS)


_COMMENTS = {
    "mode": " | ".join(OBJECTIVES),
    "base_checkpoint": "a folder or a Hub id",
    "method": " | ".join(METHOD.words),
    "training.max_steps": "wins over epochs if set",
    "training.max_length": "tokens; longer rows are cut",
    "runner": " | ".join((AUTO, *RUNNERS)),
}


def preview_lines(made: Preview) -> list[Line]:
    """The preview as lines."""
    lines = [Line(line) for line in made.text.rstrip().splitlines()]
    if made.plan:
        lines += [Line(""), Line(f"The exact command, {_place(made.plan)}:", "dim"), *_command_lines(made.plan.argv)]
        lines += [Line(f"(flags found in its {made.plan.flags_from})", "dim")]
        lines += [Line(note, "dim") for note in made.plan.notes]
    if made.omitted:
        lines.append(Line(f"Omitted, as the trainer has no flag for it: {', '.join(made.omitted)}", "warn"))
    return lines


def _command_lines(argv: Sequence[str]) -> list[Line]:
    """The command over several lines, ready to copy."""
    lines = [""]
    for token in map(shlex.quote, argv):
        if lines[-1] and len(lines[-1]) + len(token) > _COMMAND_WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{token}"
    return [Line(f"{line} \\") for line in lines[:-1]] + [Line(lines[-1])]


def _place(plan: "LaunchPlan") -> str:
    return f"in {plan.image.reference}" if plan.image else "on this machine, without a container"


# The trainer's flags, from its --help where it will run.


def trainer_facts(state: State) -> TrainerFacts:
    """The chosen trainer with its flags, probed once per runner."""
    label = f"asking {trainer_name(state)} for its flags (20 s at most)"
    return state.probe(_trainer_key(state), label, lambda: _probe_trainer(state.in_background()))


def prefetch_trainer(state: State) -> None:
    """Probe dimba's own trainer in the background if it is the default; a custom one runs only once it is chosen."""
    from dimba.common.project import project_root

    first = find_trainer(trainer_name(state), state.value("mode"), state.folder, project_root())
    if state.interactive and first.path and first.path.is_relative_to(project_root()):
        state.probes.start(_trainer_key(state), lambda: _probe_trainer(state.in_background()))


def _trainer_key(state: State) -> object:
    name = trainer_name(state)
    return "trainer", state.value("mode"), name, stamp(absolute(name, state.folder)), state.value("runner")


def check_trainer(state: State) -> None:
    """Raise InvalidAnswer if the chosen trainer cannot run the job as specified."""
    from dimba.options import table
    from dimba.plan.flags import Resolved, flag_for, trainer_argv
    from dimba.plan.job import resolved
    from dimba.spec import parse_spec

    trainer = trainer_facts(state)
    if trainer.problem:
        raise InvalidAnswer(f"trainer: {trainer.problem}", trainer.hint)
    if trainer.other_mode and not flag_for(table.MODE, trainer.flags):
        mode = state.value("mode")
        raise InvalidAnswer(
            f"trainer: {trainer.path} is for another mode, and has no --mode flag", f"choose one for {mode}"
        )
    spec = parse_spec(spec_text(state, trainer.flags).encode(), source="the spec").spec
    try:
        trainer_argv(resolved(spec), trainer, Resolved(base="base", data="data", output="output", gpu_count=1))
    except DimbaError as error:
        raise InvalidAnswer(error.message, error.hint) from None


def _probe_trainer(state: State) -> TrainerFacts:
    from dimba.spec import parse_spec

    loaded = parse_spec(spec_text(state, frozenset()).encode(), source="the spec")
    return _context(state, loaded).facts.trainer


def _context(state: State, loaded: "LoadedSpec") -> "JobContext":
    from dimba.jobs.context import Policy, gather
    from dimba.runners.registry import find_runner

    found = engine(state) if loaded.spec.runner == AUTO else find_runner(loaded.spec.runner)
    return gather(loaded, found, Policy(asks="any", trusts_spec=True, gpu=gpu_facts(state)))


def memory_of(state: State, method: str) -> "MemoryEstimate | None":
    """The memory estimate of a method with one row per batch; None without facts of the checkpoint."""
    from dimba.plan.job import resolved
    from dimba.plan.memory import estimate_memory
    from dimba.plan.share import Share
    from dimba.spec import JobSpec

    facts = base_facts(state)
    if facts is None:
        return None
    rank = state.value("lora_r") or LORA_R.default
    data = {"name": "any/data"}
    values = {"version": 1, "mode": state.value("mode"), "base_checkpoint": "base", "dataset": data, "method": method}
    spec = JobSpec.model_validate({**values, "lora": {"r": rank, "alpha": rank}})
    on_cpu = state.value("vram") is None
    return estimate_memory(resolved(spec), facts, on_cpu=on_cpu, share=Share(batch_size=1, accumulation=2))
