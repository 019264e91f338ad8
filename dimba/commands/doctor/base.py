"""Check of the base checkpoint in its usual place."""

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.machine import Machine
from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.facts import described
from dimba.plan.base import base_notes
from dimba.plan.model_type import doubted_type

_PLACE = "checkpoints/base"


def check_usual_base(machine: Machine) -> list[Check]:
    """Whether the checkpoint in `checkpoints/base` can be trained; nothing if there is none."""
    if not (machine.folder / _PLACE).is_dir():
        return []
    facts, name = look_at_checkpoint(_PLACE, machine.folder), "base checkpoint"
    if facts.problem:
        return [Check(name=name, status="warning", detail=f"{_PLACE} {facts.problem}", fix=facts.hint)]
    if facts.refusal:
        return [Check(name=name, status="warning", detail=f"{_PLACE} {facts.refusal.problem}", fix=facts.refusal.hint)]
    if doubted := doubted_type(facts):
        return [Check(name=name, status="warning", detail=f"{_PLACE} {doubted.problem}", fix=doubted.hint)]
    return [Check(name=name, status="ok", detail="; ".join([described(facts), *base_notes(facts, max_length=0)]))]
