"""What a runner can do. The real ones and the one in memory pass the same contract tests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from dimba.common.runners import Capabilities
from dimba.host.facts import ClusterNodes, EngineFacts, Gpu, ImageFacts
from dimba.plan.model import LaunchPlan, Mount
from dimba.spec import Container, JobSpec

# (what is being done, steps done, steps in all or 0 where that is not known)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Ending:
    """How a job ended: its exit status (128 + n after signal n), and what the engine says it died of."""

    exit_code: int
    out_of_memory: bool = False  # the kernel took its memory away
    engine_restarted: bool = False  # since it began
    reason: str = ""  # node_failed, time_limit or cancelled, where a scheduler says so


@dataclass(frozen=True)
class Output:
    """What a short command gave; `exit_code` None is a time-out."""

    exit_code: int | None
    text: str


OnLine = Callable[[str], None]


def ignored(_line: str) -> None:
    """Nobody reads along."""


class Runner(Protocol):
    """Runs plans; a job is named by a string that outlives this process."""

    name: str
    capabilities: Capabilities

    def nodes(self, spec: JobSpec) -> ClusterNodes | None:
        """The machines that the job goes to; None where that is this one."""

    def look(self, spec: JobSpec, container: Container | None = None) -> ImageFacts | None:
        """The image that the job would run in; None where there is none. Builds and fetches nothing.

        `container` names the image in place of the spec's section.
        """

    def prepare(self, spec: JobSpec, progress: Progress, container: Container | None = None) -> ImageFacts | None:
        """The same, made where it is not there yet. Raises EngineFailed, HostCannot."""

    def can_train(self) -> bool:
        """Whether what trains is installed where jobs run, as far as this can be told; an image has it."""

    def start(self, plan: LaunchPlan, *, run_id: str, attempt: int, log: Path, secrets: Mapping[str, str]) -> str:
        """Starts the job and returns its name; on failure nothing of it is left behind."""

    def follow(self, job: str, log: Path) -> Iterator[str]:
        """Lines of the job's output as they come, until it ends; they are in `log`, which the job writes itself."""

    def wait(self, job: str) -> Ending | None:
        """How the job ended, once it has; None where nobody knows any more."""

    def is_running(self, job: str) -> bool:
        """Whether the job goes on."""

    def waiting(self, job: str) -> str | None:
        """Why the job does not run yet, or not again yet; None where it does, or has ended."""

    def find(self, run_id: str) -> str | None:
        """The job of a run whose launcher did not live to note it; None where there is none. Raises EngineFailed."""

    def held_gpus(self) -> dict[str, str]:
        """GPUs that running jobs hold by a label of their own, each with the run's id. Raises EngineFailed."""

    def is_live(self, run_id: str, job: str | None) -> bool | None:
        """Whether a run has a running job, `job` where that is known; None where the engine does not answer."""

    def stop(self, job: str, grace: float) -> None:
        """Asks the job to save and end, waits, and kills it after `grace` seconds; 0 kills at once."""

    def run_once(self, argv: Sequence[str], place: "Throwaway", on_line: OnLine = ignored) -> Output:
        """Runs a command where the job would run and hands on its lines as they come."""


class FoundRunner(NamedTuple):
    """A runner, and the engine of this machine as far as it was asked."""

    runner: Runner
    engine: EngineFacts


@dataclass(frozen=True, kw_only=True)
class Throwaway:
    """What a command beside the jobs needs of the place where it runs."""

    uid: int
    gid: int
    image: str = ""
    mounts: tuple[Mount, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_devices: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] | None = None  # for the entry point, over stdin; None for what reads no stdin
    network: bool = False
    timeout: float = 20
