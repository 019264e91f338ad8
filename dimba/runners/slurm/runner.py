"""The job on a cluster: submitted, followed by its log on the shared file system, asked for by the scheduler."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dimba.common.contract import ENV_ATTEMPT_DIR, EXIT_FILE, EXIT_STOPPED, read_json_object
from dimba.common.errors import EngineFailed
from dimba.common.runners import RUNNERS
from dimba.host.facts import ClusterNodes, ImageFacts
from dimba.plan.model import LaunchPlan
from dimba.plan.slurm import JOB_SCRIPT, cluster_image, cluster_nodes, slurm_script
from dimba.plan.slurm_array import array_script
from dimba.runners.process import TOKENS, ProcessRunner, identity
from dimba.runners.protocol import Conversation, Ending, OneShot, OnLine, Output, Progress, ignored
from dimba.runners.slurm import scheduler
from dimba.runners.slurm.scheduler import Standing
from dimba.runners.tail import Tail
from dimba.spec import Container, JobSpec, SlurmSite

_KILLED, _QUIT = 137, 131  # statuses after SIGKILL and SIGQUIT
_DIES = 5.0  # seconds that a job takes to die, and no more
_POLL, _ASK = 0.2, 2.0  # seconds between looks at the log, and between questions to the scheduler
_GOES = 60.0  # seconds that the scheduler has to take a killed job away
_REASONS = {"NODE_FAIL": "node_failed", "BOOT_FAIL": "node_failed", "TIMEOUT": "time_limit", "DEADLINE": "time_limit"}


class SlurmRunner:
    """A job is named `number:attempt folder`: what it left there counts once the scheduler has forgotten it."""

    name = "slurm"
    capabilities = RUNNERS[name]

    def __init__(self, site: SlurmSite) -> None:
        self._site = site
        self._here = ProcessRunner()

    def nodes(self, spec: JobSpec) -> ClusterNodes | None:
        """Those of the cluster, as the spec and the site's file describe them."""
        return cluster_nodes(spec, self._site)

    def look(self, spec: JobSpec, container: Container | None = None) -> ImageFacts | None:
        """The image as it is named: the nodes have it, not this machine."""
        return cluster_image(spec, self._site)

    def prepare(
        self, spec: JobSpec, progress: Progress, container: Container | None = None, extra: str | None = None
    ) -> ImageFacts | None:
        """Nothing is built; without a container, what trains has to lie on the shared file system, beside dimba."""
        scheduler.require_commands()
        image = self.look(spec)
        return image or self._here.prepare(spec, progress, extra=extra)

    def can_train(self) -> bool:
        """Whether its packages are here."""
        return self._here.can_train()

    def start(self, plan: LaunchPlan, *, run_id: str, attempt: int, log: Path, secrets: Mapping[str, str]) -> str:
        """Submits the script, which is kept beside the log; secrets travel in the environment, as sbatch takes it."""
        script = slurm_script(plan)
        (log.parent / JOB_SCRIPT).write_text(script, encoding="utf-8")
        return f"{_submitted(script, plan, secrets)}:{log.parent}"

    def start_array(
        self, plans: Sequence[LaunchPlan], folder: Path, secrets: Mapping[str, str], *, at_once: int
    ) -> list[str]:
        """Submits one array with a task for each plan; its script is kept in `folder`. Returns the tasks' names."""
        whole = array_script(plans, folder.name, at_once)
        attempts = [Path(plan.environment[ENV_ATTEMPT_DIR]) for plan in plans]
        for plan, attempt in zip(plans, attempts, strict=True):
            (attempt / JOB_SCRIPT).write_text(slurm_script(plan, in_array=True), encoding="utf-8")
        (folder / JOB_SCRIPT).write_text(whole, encoding="utf-8")
        number = _submitted(whole, plans[0], secrets)
        return [f"{number}_{task}:{attempt}" for task, attempt in enumerate(attempts, 1)]

    def follow(self, job: str, log: Path) -> Iterator[str]:
        """The job writes its log itself; this reads along."""
        tail, asked, running = Tail(log), 0.0, True
        while running:
            if time.monotonic() - asked >= _ASK:
                running, asked = self._goes_on(job), time.monotonic()
            yield from tail.lines()
            time.sleep(_POLL if running else 0)
        yield from tail.rest()

    def wait(self, job: str) -> Ending | None:
        """By the scheduler's word, and the entry point's note where that knows more."""
        while self._goes_on(job):
            time.sleep(_ASK)
        return _ending(scheduler.standing(_number(job)), _word(job))

    def is_running(self, job: str) -> bool:
        """Whether the scheduler has it in its queue, waiting or running."""
        found = scheduler.standing(_number(job))
        return found is not None and not found.ended

    def waiting(self, job: str) -> str | None:
        """The scheduler's reason."""
        found = scheduler.standing(_number(job))
        if found is None or not found.waits:
            return None
        # Not looked at yet.
        return f"Slurm job {_number(job)}: {'' if found.reason == 'None' else found.reason}".rstrip(": ")

    def find(self, run_id: str) -> str | None:
        """By the comment that the script carries; a task of an array has that of its sweep."""
        sweep, _, task = run_id.rpartition("-")
        number = scheduler.number_of(f"dimba:{run_id}") or scheduler.number_of(f"dimba:{sweep}", task)
        output = scheduler.standing(number) if number else None
        return f"{number}:{output.log.parent}" if output else None

    def held_gpus(self) -> dict[str, str] | None:
        """The scheduler knows which GPUs are free."""
        return None

    def stop(self, job: str, grace: float) -> None:
        """SIGTERM to the entry points, which tell their ranks; then what the cluster does to end a job."""
        number = _number(job)
        found = scheduler.standing(number)
        if found is None or found.ended:
            return
        if not found.waits:
            # A SIGKILL would be the cluster's own way to end it: SIGTERM first, and half a minute of patience.
            scheduler.signal_steps(number, "TERM" if grace else "QUIT")
            self._until(job, grace or _DIES)
        if self.is_running(job):
            scheduler.cancel(number)
            self._until(job, _GOES)

    def run_once(self, argv: Sequence[str], place: OneShot, on_line: OnLine = ignored) -> Output:
        """On this machine, which has the same files."""
        return self._here.run_once(argv, place, on_line)

    def converse(self, argv: Sequence[str], place: OneShot) -> AbstractContextManager[Conversation]:
        """As `run_once`."""
        return self._here.converse(argv, place)

    def _until(self, job: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.is_running(job) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _goes_on(self, job: str) -> bool:
        """Whether the job runs, or the scheduler does not answer: a caller that waits asks again."""
        try:
            return self.is_running(job)
        except EngineFailed:
            return True


def _submitted(script: str, plan: LaunchPlan, secrets: Mapping[str, str]) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in TOKENS}
    return scheduler.submit(script, inherited | dict(secrets), **identity(plan.uid, plan.gid))


def _number(job: str) -> str:
    return job.partition(":")[0]


def _word(job: str) -> dict[str, Any]:
    return read_json_object(Path(job.partition(":")[2], EXIT_FILE))


def _ending(found: Standing | None, word: Mapping[str, Any]) -> Ending | None:
    code = word.get("exit_code")
    if found is None:
        return Ending(int(code)) if code is not None else None
    if found.state == "COMPLETED":
        return Ending(0)
    if found.state in _REASONS:
        return Ending(_KILLED, reason=_REASONS[found.state])
    if found.state == "OUT_OF_MEMORY":
        return Ending(_KILLED, out_of_memory=True)
    if found.state in ("CANCELLED", "PREEMPTED"):
        killed = found.has_run and code is None
        return Ending(_KILLED if killed else EXIT_STOPPED, reason="cancelled")
    # srun gives the highest status of all nodes, the first node's note the one that began it.
    if found.exit_code == _QUIT and code is None:
        return Ending(_KILLED)
    return Ending(found.exit_code if code in (None, EXIT_STOPPED) else int(code))
