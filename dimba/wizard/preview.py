"""What the answers come to: the file, the command, what was left out; and whether this machine can run it."""

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
from dimba.wizard.looks import base_facts
from dimba.wizard.machine import engine, gpu_facts
from dimba.wizard.question import Said, Wrong
from dimba.wizard.spec import spec_values, trainer_name, wanted_trainer_args
from dimba.wizard.state import State

if TYPE_CHECKING:
    from dimba.jobs.context import JobContext
    from dimba.plan.model import LaunchPlan, MemoryEstimate
    from dimba.spec import LoadedSpec

_COMMAND_WIDTH = 74


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The spec's text beside its plan, or what is in the way of one."""

    text: str
    plan: "LaunchPlan | None"
    problem: DimbaError | None
    left_out: tuple[str, ...]


def preview(state: State, *, anew: bool = False) -> Preview:
    """Plans the job as `dimba launch` would, `anew` where what was in the way may be mended.

    A problem of this machine is part of the answer.
    """
    flags = trainer_facts(state).flags
    text = spec_text(state, flags)
    name = ("preview", text, _trainer_key(state))
    if anew:
        state.probes.forget(name)
    return state.look(name, "planning", lambda: _planned(state.unseen(), text, flags))


def _planned(state: State, text: str, flags: frozenset[str]) -> Preview:
    from dimba.spec import parse_spec

    loaded = parse_spec(text.encode(), source="the spec")
    missing = [f"{name} {value}" for name, value in wanted_trainer_args(state).items() if f"--{name}" not in flags]
    try:
        plan = _context(state, loaded).plan()
    except DimbaError as error:
        return Preview(text=text, plan=None, problem=error, left_out=tuple(missing))
    omitted = [f"{each.key} {each.value}".strip() for each in plan.omitted]
    return Preview(text=text, plan=plan, problem=None, left_out=(*omitted, *missing))


def spec_text(state: State, flags: frozenset[str]) -> str:
    """The file, pleasant to read and edit."""
    from dimba.spec import spec_yaml

    return spec_yaml(spec_values(state, flags), "./job.schema.json", comments=_COMMENTS)


_COMMENTS = {
    "mode": " | ".join(OBJECTIVES),
    "base_checkpoint": "a folder or a Hub id",
    "method": "full | lora | qlora",
    "training.max_steps": "wins over epochs where it is set",
    "training.max_length": "tokens; longer rows are cut",
    "runner": " | ".join((AUTO, *RUNNERS)),
}


def shown(made: Preview) -> list[Said]:
    """The preview as lines."""
    lines = [Said(line) for line in made.text.rstrip().splitlines()]
    if made.plan:
        lines += [Said(""), Said(f"The exact command, {_where(made.plan)}:", "dim"), *_command(made.plan.argv)]
        lines += [Said(f"(flags found in its {made.plan.flags_from})", "dim")]
        lines += [Said(note, "dim") for note in made.plan.notes]
    if made.left_out:
        lines.append(Said(f"Left out, as the trainer has no flag for it: {', '.join(made.left_out)}", "warn"))
    return lines


def _command(argv: Sequence[str]) -> list[Said]:
    """As one would write it over several lines, to be copied whole."""
    lines = [""]
    for token in map(shlex.quote, argv):
        if lines[-1] and len(lines[-1]) + len(token) > _COMMAND_WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{token}"
    return [Said(f"{line} \\") for line in lines[:-1]] + [Said(lines[-1])]


def _where(plan: "LaunchPlan") -> str:
    return f"in {plan.image.reference}" if plan.image else "on this machine itself"


# The trainer, asked where it will run.


def trainer_facts(state: State) -> TrainerFacts:
    """The chosen trainer with its flags; asked once for each place where it may run."""
    what = f"asking {trainer_name(state)} for its flags (20 s at most)"
    return state.look(_trainer_key(state), what, lambda: _trainer(state.unseen()))


def prefetch_trainer(state: State) -> None:
    """Begins to ask our own trainer, where it is the one offered first; nobody else's is run before it is chosen."""
    from dimba.host.probe import project_root

    first = find_trainer(trainer_name(state), state.value("mode"), state.folder, project_root())
    if state.asking and first.path and first.path.is_relative_to(project_root()):
        state.probes.start(_trainer_key(state), lambda: _trainer(state.unseen()))


def _trainer_key(state: State) -> object:
    name = trainer_name(state)
    return "trainer", state.value("mode"), name, stamp(absolute(name, state.folder)), state.value("runner")


def check_trainer(state: State) -> None:
    """Raises Wrong where the job could not mean what was asked with the chosen trainer."""
    from dimba.options import table
    from dimba.plan.flags import Resolved, flag_for, trainer_argv
    from dimba.plan.job import resolved
    from dimba.spec import parse_spec

    trainer = trainer_facts(state)
    if trainer.problem:
        raise Wrong(f"trainer: {trainer.problem}", trainer.hint)
    if trainer.other_mode and not flag_for(table.MODE, trainer.flags):
        mode = state.value("mode")
        raise Wrong(f"trainer: {trainer.path} is for the other mode, and has no --mode flag", f"choose one for {mode}")
    spec = parse_spec(spec_text(state, trainer.flags).encode(), source="the spec").spec
    try:
        trainer_argv(resolved(spec), trainer, Resolved(base="base", data="data", output="output", gpu_count=1))
    except DimbaError as error:
        raise Wrong(error.message, error.hint) from None


def _trainer(state: State) -> TrainerFacts:
    from dimba.spec import parse_spec

    loaded = parse_spec(spec_text(state, frozenset()).encode(), source="the spec")
    return _context(state, loaded).facts.trainer


def _context(state: State, loaded: "LoadedSpec") -> "JobContext":
    from dimba.jobs.context import Policy, gather
    from dimba.runners.registry import find_runner

    found = engine(state) if loaded.spec.runner == AUTO else find_runner(loaded.spec.runner)
    return gather(loaded, found, Policy(asks="any", trusts_spec=True, gpu=gpu_facts(state)))


def memory_of(state: State, method: str) -> "MemoryEstimate | None":
    """The estimate of a method, for one row at a time; None for a checkpoint that is not at hand."""
    from dimba.plan.job import resolved
    from dimba.plan.memory import Share, estimate_memory
    from dimba.spec import JobSpec

    facts = base_facts(state)
    if facts is None:
        return None
    rank = state.value("lora_r") or 8
    data = {"name": "any/data"}
    values = {"version": 1, "mode": state.value("mode"), "base_checkpoint": "base", "dataset": data, "method": method}
    spec = JobSpec.model_validate({**values, "lora": {"r": rank, "alpha": rank}})
    on_cpu = state.value("vram") is None
    return estimate_memory(resolved(spec), facts, on_cpu=on_cpu, share=Share(batch_size=1, accumulation=2))
