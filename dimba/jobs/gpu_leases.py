"""GPUs for a run: what it wants, who has them, and waiting for its turn."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from dimba.common.errors import EngineFailed, Interrupted
from dimba.common.runners import RUNNERS
from dimba.host.facts import HostFacts
from dimba.host.gpus import used_by_processes
from dimba.plan.model import LaunchPlan
from dimba.records.leases import Answer, Lease, Leases, Wanted
from dimba.records.locks import locks_folder
from dimba.records.store import RunFolder
from dimba.runners.protocol import Runner
from dimba.runners.registry import runner_of
from dimba.spec import JobSpec

_POLL = 0.3  # seconds; what waits starts about as long after a card is free


@dataclass(frozen=True)
class Machine:
    """The runners that a lease is held against; those whose engine does not answer are missing."""

    runners: tuple[Runner, ...]

    def held(self) -> dict[str, str]:
        """GPUs that running jobs hold by their labels, each with the run's id."""
        held: dict[str, str] = {}
        for runner in self.runners:
            with suppress(EngineFailed):
                held |= runner.held_gpus()
        return held

    def runner_of(self, name: str) -> Runner | None:
        """The runner of a lease; None where its engine does not answer."""
        return next((runner for runner in self.runners if runner.name == name), None)


def wanted_by(spec: JobSpec, plan: LaunchPlan, facts: HostFacts) -> Wanted:
    """Any so many cards, or those that the plan names."""
    asked = spec.resources.gpus
    if isinstance(asked, int):
        return Wanted(candidates=tuple(gpu.id for gpu in facts.gpu.gpus), count=asked)
    return Wanted(candidates=plan.gpu_ids, count=len(plan.gpu_ids))


class GpuLeases:
    """The GPU leases of one run: asked for, handed over to its job, and given back."""

    def __init__(self, run: RunFolder, runner: str, machine: Machine) -> None:
        self._run, self._runner, self._machine = run, runner, machine
        self._leases = Leases(locks_folder(), self._job_lives)

    def ask(self, wanted: Wanted) -> Answer:
        """Cards now, or who has them."""
        labels = {gpu: f"run {run}" for gpu, run in self._machine.held().items() if run != self._run.id}
        others = {**used_by_processes(), **labels}
        since = datetime.fromisoformat(self._run.record().created).timestamp()
        return self._leases.ask(self._run.id, wanted, since=since, runner=self._runner, others=others)

    def take(self, gpus: tuple[str, ...]) -> None:
        """Cards that others may use as well."""
        self._leases.take(self._run.id, gpus, runner=self._runner)

    def wait(self, wanted: Wanted, say: Callable[[str], None]) -> tuple[str, ...]:
        """Cards, after all who came before; raises Interrupted where the run was told to stop meanwhile."""
        said = ""
        while (answer := self.ask(wanted)).gpus is None:
            if (text := waiting_for(answer)) != said:
                said = text
                say(text)
            time.sleep(_POLL)
            if self._run.is_asked_to_stop():
                self._leases.give_back(self._run.id)
                raise Interrupted(f"run {self._run.id} was stopped while it waited", "")
        return answer.gpus

    def hand_over(self, job: str) -> None:
        """The job holds them from now on."""
        self._leases.hand_over(self._run.id, job)

    def give_back(self) -> None:
        """Others may have them."""
        self._leases.give_back(self._run.id)

    def _job_lives(self, lease: Lease) -> bool | None:
        runner = self._machine.runner_of(lease.runner)
        return runner.is_live(lease.run, lease.job) if runner else None


def waiting_for(answer: Answer) -> str:
    """Who has the cards."""
    return "; ".join(f"GPU {gpu}: {holder}" for gpu, holder in answer.holders.items())


def machine() -> Machine:
    """This one."""
    leasing = (name for name, can in RUNNERS.items() if can.leases_gpus)
    return Machine(tuple(runner for name in leasing if (runner := runner_of(name))))
