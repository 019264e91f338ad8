"""GPU leases of a run: which GPUs it needs, which runs hold them, and the wait for its turn."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dimba.common.errors import EngineFailed, Interrupted
from dimba.common.runners import RUNNERS
from dimba.host.facts import HostFacts
from dimba.host.gpus import used_by_processes
from dimba.plan.model import LaunchPlan
from dimba.records.leases import Answer, GpuRequest, Lease, Leases
from dimba.records.locks import locks_folder
from dimba.records.store import RunFolder
from dimba.runners.protocol import Runner
from dimba.runners.registry import runner_of
from dimba.spec import JobSpec

Held = dict[str, str]  # GPU id: id of the run whose job holds it
_POLL = 0.3  # seconds; a waiting run starts at most so long after a GPU is free


@dataclass(frozen=True)
class Jobs:
    """The running jobs of a runner; `held` is as in `Runner.held_gpus`, and empty if the engine did not answer."""

    runner: Runner
    held: Held | None
    answered: bool = True

    def has(self, lease: Lease) -> bool | None:
        """Whether the lease's job is among them; None if the engine did not answer."""
        if not self.answered:
            return None
        if self.held is not None:
            return lease.run in self.held.values()
        return self.runner.is_running(lease.job) if lease.job else self.runner.find(lease.run) is not None


def _jobs_of(runner: Runner) -> Jobs:
    try:
        return Jobs(runner, runner.held_gpus())
    except EngineFailed:
        return Jobs(runner, {}, answered=False)


@dataclass(frozen=True)
class Machine:
    """The runners of this machine whose jobs hold leases, without those whose engine does not answer."""

    runners: tuple[Runner, ...]

    def jobs(self) -> dict[str, Jobs]:
        """The jobs of each runner as they are now, by the runner's name."""
        return {runner.name: _jobs_of(runner) for runner in self.runners}


def wanted_by(spec: JobSpec, plan: LaunchPlan, facts: HostFacts) -> GpuRequest:
    """A number of any GPUs, or the GPUs that the plan names."""
    asked = spec.resources.gpus
    if isinstance(asked, int):
        return GpuRequest(candidates=tuple(gpu.id for gpu in facts.gpu.gpus), count=asked)
    return GpuRequest(candidates=plan.gpu_ids, count=len(plan.gpu_ids))


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A run, or a command such as `dimba chat`, that holds GPUs; `since` is its place in the queue."""

    id: str
    since: float  # seconds since 1970
    is_stopped: Callable[[], bool] = _never  # while it waits

    @classmethod
    def of_run(cls, run: RunFolder) -> "Holder":
        """A run on record, which queues since it was created; one of a sweep queues since its turn."""
        record = run.record()
        since = time.time() if record.group else datetime.fromisoformat(record.created).timestamp()
        return cls(id=run.id, since=since, is_stopped=run.has_stop_request)


class GpuLeases:
    """The GPU leases of one holder: requested, handed over to its job, and released."""

    def __init__(self, holder: Holder, runner: str, machine: Machine) -> None:
        self._holder, self._runner, self._machine = holder, runner, machine
        self._jobs: dict[str, Jobs] = {}
        self._leases = Leases(locks_folder(), self._job_lives)

    def ask(self, wanted: GpuRequest) -> Answer:
        """Requests the GPUs; the answer has them, or the runs that hold them."""
        self._jobs = self._machine.jobs()  # asked once for all leases, before their table is locked
        held = (item for jobs in self._jobs.values() for item in (jobs.held or {}).items())
        labels = {gpu: f"run {run}" for gpu, run in held if run != self._holder.id}
        others = {**used_by_processes(), **labels}
        return self._leases.ask(self._holder.id, wanted, since=self._holder.since, runner=self._runner, others=others)

    def take(self, gpus: tuple[str, ...]) -> None:
        """Takes GPUs that other runs may hold as well (`--share`)."""
        self._jobs = self._machine.jobs()
        self._leases.take(self._holder.id, gpus, runner=self._runner)

    def wait(self, wanted: GpuRequest, say: Callable[[str], None]) -> tuple[str, ...]:
        """Waits for the GPUs in the order of requests; raises Interrupted if the run is stopped meanwhile."""
        said = ""
        while (answer := self.ask(wanted)).gpus is None:
            if (text := waiting_for(answer)) != said:
                said = text
                say(text)
            time.sleep(_POLL)
            if self._holder.is_stopped():
                self._leases.release(self._holder.id)
                raise Interrupted(f"run {self._holder.id} was stopped while it waited", "")
        return answer.gpus

    def hand_over(self, job: str) -> None:
        """The leases last as long as the job from now on."""
        self._leases.hand_over(self._holder.id, job)

    def give_back(self) -> None:
        """Releases the GPUs."""
        self._leases.release(self._holder.id)

    def _job_lives(self, lease: Lease) -> bool | None:
        if jobs := self._jobs.get(lease.runner):
            return jobs.has(lease)
        return None if lease.runner in RUNNERS else False  # a runner of another version cannot be asked


def waiting_for(answer: Answer) -> str:
    """Which run or process holds each GPU."""
    return "; ".join(f"GPU {gpu}: {holder}" for gpu, holder in answer.holders.items())


def machine() -> Machine:
    """This machine."""
    leasing = (name for name, can in RUNNERS.items() if can.leases_gpus)
    return Machine(tuple(runner for name in leasing if (runner := runner_of(name))))
