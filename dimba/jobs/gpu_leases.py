"""GPUs for a run: what it wants, who has them, and waiting for its turn."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dimba.common.errors import EngineFailed, Interrupted
from dimba.host.facts import HostFacts
from dimba.host.gpus import used_by_processes
from dimba.host.probe import project_root
from dimba.plan.model import LaunchPlan
from dimba.records.leases import Answer, Lease, Leases, Wanted
from dimba.records.locks import locks_folder
from dimba.records.processes import lives
from dimba.records.store import RunFolder
from dimba.spec import JobSpec

_POLL = 0.3  # seconds; what waits starts about as long after a card is free
Held = dict[str, str]  # card: the id of the run whose container holds it


@dataclass(frozen=True)
class Machine:
    """What a lease is held against: `containers` gives what running ones hold, None where no engine answers."""

    containers: Callable[[], Held | None]
    process_of: Callable[[str], str | None]  # the job of a run, by the run's id


def wanted_by(spec: JobSpec, plan: LaunchPlan, facts: HostFacts) -> Wanted:
    """Any so many cards, or those that the plan names."""
    asked = spec.resources.gpus
    if isinstance(asked, int):
        return Wanted(candidates=tuple(gpu.id for gpu in facts.gpu.gpus), count=asked)
    return Wanted(candidates=plan.gpu_ids, count=len(plan.gpu_ids))


class Desk:
    """Where one run asks for cards, and where they are handed over to its job."""

    def __init__(self, run: RunFolder, runner: str, machine: Machine) -> None:
        self._run, self._runner, self._machine = run, runner, machine
        self._labelled: Held | None = None
        self._leases = Leases(locks_folder(), self._job_lives)

    def ask(self, wanted: Wanted) -> Answer:
        """Cards now, or who has them."""
        self._labelled = self._machine.containers()
        labels = {gpu: f"run {run}" for gpu, run in (self._labelled or {}).items() if run != self._run.id}
        others = {**used_by_processes(), **labels}
        since = datetime.fromisoformat(self._run.record().created).timestamp()
        return self._leases.ask(self._run.id, wanted, since=since, runner=self._runner, others=others)

    def take(self, gpus: tuple[str, ...]) -> None:
        """Cards that others may use as well."""
        self._labelled = self._machine.containers()
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
        if lease.runner == "docker":
            return None if self._labelled is None else lease.run in self._labelled.values()
        return lives(lease.job) if lease.job else self._machine.process_of(lease.run) is not None


def waiting_for(answer: Answer) -> str:
    """Who has the cards."""
    return "; ".join(f"GPU {gpu}: {holder}" for gpu, holder in answer.holders.items())


def machine() -> Machine:
    """This one; the engine is asked only where one answers."""
    from dimba.runners.docker.engine import Engine, connect
    from dimba.runners.docker.runner import DockerRunner
    from dimba.runners.process import ProcessRunner

    found = connect()

    def containers() -> Held | None:
        if not isinstance(found, Engine):
            return None
        try:
            return DockerRunner(found, project_root()).held_gpus()
        except EngineFailed:
            return None

    return Machine(containers, ProcessRunner().find)
