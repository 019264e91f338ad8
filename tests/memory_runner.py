"""A runner in memory, for tests without containers or processes; it passes the runners' contract tests."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from dimba.common.runners import Capabilities
from dimba.host.facts import ClusterNodes, ImageFacts
from dimba.plan.model import LaunchPlan
from dimba.runners.protocol import Conversation, Ending, OneShot, OnLine, Output, Progress, ignored
from dimba.spec import Container, JobSpec

IN_MEMORY = Capabilities("in memory", leases_gpus=True)
Script = Callable[["Stop"], tuple[list[str], int]]
Stop = threading.Event


@dataclass
class MemoryRunner:
    """Runs scripts given as argv: (`say`, TEXT, STATUS) prints and ends, (`wait`, TEXT, STATUS) runs until stopped."""

    name: str = "memory"
    capabilities: Capabilities = IN_MEMORY
    jobs: dict[str, tuple[list[str], Stop, int | None]] = field(default_factory=dict)
    secrets: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def nodes(self, spec: JobSpec) -> ClusterNodes | None:
        return None

    def look(self, spec: JobSpec, container: Container | None = None) -> ImageFacts | None:
        return None

    def prepare(
        self, spec: JobSpec, progress: Progress, container: Container | None = None, extra: str | None = None
    ) -> ImageFacts | None:
        return None

    def can_train(self) -> bool:
        return True

    def start(self, plan: LaunchPlan, *, run_id: str, attempt: int, log: Path, secrets: Mapping[str, str]) -> str:
        kind, text, status = plan.argv
        stop = Stop()
        if kind == "say":
            stop.set()
        job = f"{run_id}-{attempt}"
        self.secrets[job] = dict(secrets)
        self.jobs[job] = (text.splitlines(), stop, int(status))
        return job

    def follow(self, job: str, log: Path) -> Iterator[str]:
        lines, stop, _ = self.jobs[job]
        with log.open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
                file.flush()
                yield line
            stop.wait(10)

    def wait(self, job: str) -> Ending | None:
        if job not in self.jobs:
            return None
        _, stop, status = self.jobs[job]
        stop.wait(10)
        return Ending(status or 0)

    def is_running(self, job: str) -> bool:
        return job in self.jobs and not self.jobs[job][1].is_set()

    def waiting(self, job: str) -> str | None:
        return None

    def find(self, run_id: str) -> str | None:
        return next((job for job in self.jobs if job.startswith(run_id)), None)

    def held_gpus(self) -> dict[str, str] | None:
        return None

    def stop(self, job: str, grace: float) -> None:
        lines, stop, status = self.jobs[job]
        if not stop.is_set():
            self.jobs[job] = (lines, stop, status if grace else 137)
            stop.set()

    def run_once(self, argv: Sequence[str], place: OneShot, on_line: OnLine = ignored) -> Output:
        kind, text, status = argv
        for line in text.splitlines():
            on_line(line)
        return Output(None if kind == "wait" else int(status), text + "\n")

    @contextmanager
    def converse(self, argv: Sequence[str], place: OneShot) -> Iterator[Conversation]:
        echo = Echo()
        if place.secrets:
            echo.send(json.dumps(place.secrets))
        yield echo


@dataclass
class Echo:
    """Answers each line with itself, reversed."""

    queue: "SimpleQueue[str | None]" = field(default_factory=SimpleQueue)

    def send(self, line: str) -> None:
        self.queue.put(line[::-1])

    def lines(self) -> Iterator[str]:
        while (line := self.queue.get()) is not None:
            yield line

    def wait(self) -> int:
        self.queue.put(None)
        return 0
