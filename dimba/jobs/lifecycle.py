"""One run, from its record to its outcome."""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from dimba.common import contract
from dimba.common.errors import DimbaError, Interrupted
from dimba.host.facts import HostFacts
from dimba.host.provenance import hub_commits
from dimba.jobs.outcome import OwnWord, classify_outcome, measured_memory
from dimba.plan.model import LaunchPlan
from dimba.records import SETTLING, RunFolder, create_run
from dimba.records.processes import myself
from dimba.records.record import Attempt, RunRecord, now
from dimba.records.store import make_folder, write_whole
from dimba.runners.protocol import Ending, Runner
from dimba.runners.tail import Tail
from dimba.spec import LoadedSpec


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line's options of a run; a resumed run keeps them."""

    allow_cpu: bool = False
    share: bool = False  # uses GPUs that other runs hold
    retries: int = 0  # after transient failures
    time_limit: float | None = None  # seconds
    restart_hung: bool = False


class Reporter(Protocol):
    """How a launch is shown; `cli` has the one for people."""

    def note(self, text: str) -> None:
        """Something worth saying once."""

    def progress(self, what: str, done: int, total: int) -> None:
        """A step of something that takes a while; `what` empty is a sign of life."""

    def rows(self, count: int, total: int = 0) -> None:
        """Rows of the data read so far; with a `total`, rows that are tokenised."""

    def started(self, record: RunRecord, plan: LaunchPlan) -> None:
        """The job runs."""

    def line(self, text: str, metrics: Sequence[dict[str, Any]]) -> None:
        """A line of the job's output, and the metrics that came with it."""

    def ended(self) -> None:
        """Nothing more is shown live."""

    def asks_to_stop(self) -> bool | None:
        """After a Ctrl-C: stop the run, or leave it running; None where nobody can be asked."""


class _Interrupt:
    """Somebody pressed Ctrl-C."""


@dataclass
class Run:
    """A run on its way: its folder, and its record as it changes."""

    folder: RunFolder
    record: RunRecord
    stopping: bool = False
    # Lines of the job, None at its end, what went wrong with reading them, and every Ctrl-C, in the order they came.
    events: "queue.SimpleQueue[str | BaseException | _Interrupt | None]" = field(default_factory=queue.SimpleQueue)

    @classmethod
    def create(
        cls, plan: LaunchPlan, loaded: LoadedSpec, facts: HostFacts, options: Options, made_of: dict[str, Any]
    ) -> "Run":
        """Puts the run on record, with what it is `made_of`, before anything of it starts."""
        folder = create_run(facts.runs, plan.name, plan.uid, plan.gid)
        folder.write_bytes(contract.SPEC_FILE, loaded.data)
        record = RunRecord(
            id=folder.id,
            name=plan.name,
            runner=plan.runner,
            mode=plan.mode,
            method=plan.method,
            output_dir=str(plan.output_dir),
            seed=loaded.spec.training.seed,
            command=("dimba", *sys.argv[1:]),
            overrides=loaded.overrides,
            created=now(),
            folder=str(facts.folder),
            launcher=myself(),
            **vars(options),
            **_cut(made_of, folder),
        )
        folder.write_record(record)
        return cls(folder, record)

    def update(self, **changes: Any) -> None:
        """Keeps the changed record, on disk too."""
        self.record = replace(self.record, **changes)
        self.folder.write_record(self.record)

    def start(self, runner: Runner, plan: LaunchPlan, reporter: Reporter) -> str:
        """Makes the folders that the job writes in, as its user, and starts it; returns the job's name."""
        for folder in plan.writable:
            make_folder(folder, plan.uid, plan.gid)
        claim_output(plan, self.folder.path)
        number = self.folder.new_attempt()
        plan = plan.for_attempt(self.folder.id, self.folder.attempt(number))
        self.folder.write_json(contract.PLAN_FILE, plan.as_json())
        attempts = (*self.record.attempts, Attempt(number=number, started=now()))
        self.record = replace(self.record, stop_grace=plan.stop_grace, **_image(plan), **cards_on_record(plan))
        self.update(
            **IN_HAND, launcher=myself(), status="starting", started=self.record.started or now(), attempts=attempts
        )
        self.check_wanted()
        job = runner.start(
            plan,
            run_id=self.folder.id,
            attempt=number,
            log=self.folder.log(number),
            secrets={name: os.environ[name] for name in plan.host_environment},
        )
        self.record = self.record.with_attempt(job=job)
        waits = runner.waiting(job)
        status = "queued" if waits else "running"
        self.update(status=status, waits_for=waits, container_id=container_of(runner, job))
        if waits:
            reporter.note(f"waiting for its turn: {waits}")
        if plan.omitted:
            left_out = ", ".join(f"{each.key} {each.value}".strip() for each in plan.omitted)
            reporter.note(f"the trainer has no flag for, and does not get: {left_out}")
        reporter.started(self.record, plan)
        return job

    def check_wanted(self) -> None:
        """Raises Interrupted where somebody stopped the run before its job began."""
        if self.folder.is_asked_to_stop():
            raise Interrupted(f"run {self.folder.id} was stopped before its job began", "")

    def interrupt(self) -> None:
        """Notes a Ctrl-C; `follow` acts on it in its turn, so that it tears nothing apart."""
        self.events.put(_Interrupt())

    def follow(self, runner: Runner, job: str, reporter: Reporter) -> None:
        """Shows the job until it ends; the first Ctrl-C asks, or stops it where nobody can be asked."""
        number = len(self.record.attempts)
        metrics = Tail(self.folder.attempt(number) / contract.METRICS_FILE)
        word = OwnWord(self.folder.attempt(number))
        threading.Thread(target=self._read, args=(runner.follow(job, self.folder.log(number)),), daemon=True).start()
        while (event := self.events.get()) is not None:
            if isinstance(event, BaseException):
                reporter.ended()
                raise event
            if isinstance(event, _Interrupt):
                self._interrupted(runner, job, reporter)
                continue
            if not word.holds(event):
                reporter.line(event, [json.loads(line) for line in metrics.lines()])
        reporter.ended()
        error = self.close(runner.wait(job))
        for text in word.untold(error):
            reporter.line(text, [])
        if error:
            raise error

    def _read(self, lines: Iterator[str]) -> None:
        try:
            for text in lines:
                self.events.put(text)
            self.events.put(None)
        except BaseException as error:  # handed on to the main thread, which raises it
            self.events.put(error)

    def _interrupted(self, runner: Runner, job: str, reporter: Reporter) -> None:
        if self.stopping:
            reporter.note("killing it")
            runner.stop(job, 0)
            return
        if reporter.asks_to_stop() is False:
            hint = f"`dimba ps` lists it, `dimba stop {self.folder.id}` saves and ends it"
            raise Interrupted(f"left running: {self.folder.id}", hint)
        self.stopping = True
        self.update(status="stopping")
        reporter.note("stopping: the job saves a checkpoint first; Ctrl-C again kills it")
        # Beside the log, which goes on being shown until the job has ended.
        threading.Thread(target=runner.stop, args=(job, patience(self.record)), daemon=True).start()

    def close(self, ending: Ending | None) -> DimbaError | None:
        """Writes how it ended; what to say where that was not well."""
        # `dimba stop` in another terminal notes there that it asked.
        stopping = self.stopping or self.folder.record().status == "stopping"
        status, reason, error = classify_outcome(ending, self.folder, stopping=stopping)
        self.record = self.record.closed(status, reason, ending.exit_code if ending else None)
        self.update(**hub_commits(self.folder.plan()), **measured_memory(self.folder))
        return error

    @contextmanager
    def closing_on_failure(self) -> Iterator[None]:
        """A run that did not start is not left `building` or `starting` on record."""
        try:
            yield
        except (DimbaError, KeyboardInterrupt) as error:
            stopped = isinstance(error, KeyboardInterrupt | Interrupted)
            if self.record.status in SETTLING:
                ending = ("stopped", "stopped_by_user") if stopped else ("failed", "start_failed")
                self.record = self.record.closed(*ending, None)
                self.update()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("interrupted before the job had started", "nothing of it is left running") from None
            raise


_LONGEST_DIFF = 1 << 16  # characters

IN_HAND: dict[str, Any] = {"exit_reason": None, "exit_code": None, "ended": None, "waits_for": None}


def container_of(runner: Runner, job: str) -> str | None:
    """The container id of a job that is a container."""
    return job if runner.capabilities.uses_engine else None


def patience(record: RunRecord) -> float:
    """Seconds after which a job that was told to stop is killed from outside: its own grace, some steps, and more."""
    return 2 * record.stop_grace + contract.STOP_MARGIN


def _image(plan: LaunchPlan) -> dict[str, Any]:
    image = plan.image
    return {"image": image.reference, "image_digest": image.id} if image else {}


def cards_on_record(plan: LaunchPlan) -> dict[str, Any]:
    """What a record says of the cards of a plan."""
    return {
        "driver": next((gpu.driver for gpu in plan.gpus), None),
        "gpus": plan.gpu_ids,
        "gpu_names": tuple(gpu.name or "unnamed" for gpu in plan.gpus),
    }


def _cut(made_of: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Without a diff so long that every look at the record would be slow: it gets a file of its own."""
    diff = made_of.get("git_diff") or ""
    if len(diff) <= _LONGEST_DIFF:
        return made_of
    folder.write_bytes(contract.DIFF_FILE, diff.encode())
    cut = f"{diff[:_LONGEST_DIFF]}\n… {len(diff) - _LONGEST_DIFF:,} more characters in {contract.DIFF_FILE}"
    return {**made_of, "git_diff": cut}


def claim_output(plan: LaunchPlan, run: Path) -> None:
    """Writes dimba.json: whose folder this is, and from what."""
    note = {
        "run_id": run.name,
        "run": str(run),
        "name": plan.name,
        "base_checkpoint": plan.checkpoint.reference,
        "argv": plan.argv,
    }
    data = json.dumps(note, indent=2).encode()
    write_whole(plan.output_dir / contract.OUTPUT_FILE, data, plan.uid, plan.gid)


@contextmanager
def signals(handle: Callable[[], None]) -> Iterator[None]:
    """SIGTERM means what Ctrl-C means: both call `handle`."""

    def handler(_signum: int, _frame: FrameType | None) -> None:
        handle()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def interrupted() -> None:
    """For `signals`, where what is being done may be torn apart."""
    raise KeyboardInterrupt
