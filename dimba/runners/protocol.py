"""The interface of runners. The real ones and the one in memory pass the same contract tests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
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
    """How a job ended: its exit status (128 + n after signal n), and the cause that the engine reports."""

    exit_code: int
    out_of_memory: bool = False  # killed by the kernel for its memory
    engine_restarted: bool = False  # since the job started
    reason: str = ""  # of a scheduler: node_failed, time_limit or cancelled


@dataclass(frozen=True)
class Output:
    """The output of a one-shot command; `exit_code` is None after a time-out."""

    exit_code: int | None
    text: str


OnLine = Callable[[str], None]


def ignored(_line: str) -> None:
    """Ignores a line."""


class Runner(Protocol):
    """Runs plans; a job's name is a string that outlives this process."""

    name: str
    capabilities: Capabilities

    def nodes(self, spec: JobSpec) -> ClusterNodes | None:
        """The cluster nodes that the job runs on; None for a job of this machine."""

    def look(self, spec: JobSpec, container: Container | None = None) -> ImageFacts | None:
        """The image that the job would run in, None without one. Builds and fetches nothing.

        `container` overrides the spec's section.
        """

    def prepare(
        self, spec: JobSpec, progress: Progress, container: Container | None = None, extra: str | None = None
    ) -> ImageFacts | None:
        """The same image, built or pulled where it is missing. Raises EngineFailed, HostCannot.

        `extra` is one of `IMAGE_EXTRAS`, in place of what the job itself needs.
        """

    def can_train(self) -> bool:
        """Whether the training packages are installed where jobs run; an image always has them."""

    def start(self, plan: LaunchPlan, *, run_id: str, attempt: int, log: Path, secrets: Mapping[str, str]) -> str:
        """Starts the job and returns its name; a failed start leaves nothing behind."""

    def follow(self, job: str, log: Path) -> Iterator[str]:
        """The lines of the job's output as they appear in `log`, which the job itself writes, until the job ends."""

    def wait(self, job: str) -> Ending | None:
        """Waits for the job to end; returns None if its exit status is lost."""

    def is_running(self, job: str) -> bool:
        """Whether the job is running or queued."""

    def waiting(self, job: str) -> str | None:
        """Why a scheduler has not started or restarted the job yet; None if it runs or has ended."""

    def find(self, run_id: str) -> str | None:
        """The job of a run whose launcher died before recording it, None without one. Raises EngineFailed."""

    def held_gpus(self) -> dict[str, str] | None:
        """GPU ids that running jobs hold by their labels, each with the run's id; None if jobs carry no labels.

        Raises EngineFailed.
        """

    def stop(self, job: str, grace: float) -> None:
        """Asks the job to save and end, waits, and kills it after `grace` seconds; 0 kills it immediately."""

    def run_once(self, argv: Sequence[str], place: "OneShot", on_line: OnLine = ignored) -> Output:
        """Runs a one-shot command where the job would run, and passes each line to `on_line`."""

    def converse(self, argv: Sequence[str], place: "OneShot") -> "AbstractContextManager[Conversation]":
        """Starts a one-shot command that reads lines; it has ended, and left nothing behind, after the block.

        A Ctrl-C on the terminal does not reach it.
        """


class ArrayRunner(Runner, Protocol):
    """A runner that takes arrays."""

    def start_array(
        self, plans: Sequence[LaunchPlan], folder: Path, secrets: Mapping[str, str], *, at_once: int
    ) -> list[str]:
        """Starts a job for each plan, at most `at_once` at a time (0: no limit); returns their names.

        Each plan is of an attempt of the run `<folder's name>-<number from 1>`. Raises HostCannot, EngineFailed.
        """


class Conversation(Protocol):
    """A one-shot command that reads lines, and answers with lines."""

    def send(self, line: str) -> None:
        """Sends one line; a command that has ended does not read it."""

    def lines(self) -> Iterator[str]:
        """The lines of its output as they come, until it ends."""

    def wait(self) -> int:
        """Closes its input, waits for its end, and returns its exit status."""


class FoundRunner(NamedTuple):
    """A runner, and what is known of this machine's engine."""

    runner: Runner
    engine: EngineFacts


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """Where and as which user a one-shot command runs."""

    uid: int
    gid: int
    image: str = ""
    mounts: tuple[Mount, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_devices: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] | None = None  # sent to the entry point over stdin; None if the command reads no stdin
    network: bool = False
    host_network: bool = False  # this machine's own, where there is a network
    timeout: float = 20  # seconds; a conversation has no limit
    name: str = ""  # as the holder of its GPUs; empty if it holds none

    def with_environment(self, further: Mapping[str, str]) -> "OneShot":
        """The same place with more variables."""
        return replace(self, environment={**self.environment, **further})
