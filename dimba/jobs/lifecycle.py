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
from types import FrameType
from typing import Any, Protocol

from dimba.common import contract
from dimba.common.errors import DimbaError, Interrupted
from dimba.host.facts import HostFacts
from dimba.host.provenance import hub_commits
from dimba.jobs.outcome import FinalError, classify_outcome, may_retry, measured_memory, proof_of_learning, store_state
from dimba.jobs.recorded import (
    attempt_environment,
    claim_output,
    container_of,
    cut_diff,
    launched_here,
    new_store,
    patience,
    recorded_plan,
)
from dimba.plan.model import LaunchPlan
from dimba.records import PENDING, RunFolder, create_run
from dimba.records.record import Attempt, RunRecord, now
from dimba.records.store import make_folder, new_run_id
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
    """Shows a launch; `cli` implements it for people."""

    def note(self, text: str) -> None:
        """Print a remark once."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Show a step of a long operation; an empty `what` only shows that it is alive."""

    def rows(self, count: int, total: int = 0) -> None:
        """Show the number of rows read so far; with a `total`, of rows tokenised."""

    def started(self, record: RunRecord, plan: LaunchPlan) -> None:
        """Show that the job runs."""

    def line(self, text: str, metrics: Sequence[dict[str, Any]]) -> None:
        """Show a line of the job's output, and the metrics that came with it."""

    def ended(self) -> None:
        """End the live display."""

    def asks_to_stop(self) -> bool | None:
        """After a Ctrl-C: whether to stop the run instead of leaving it running; None without a terminal."""


class _Interrupt:
    """A Ctrl-C."""


@dataclass
class Run:
    """An active run: its folder, and its record as it changes."""

    folder: RunFolder
    record: RunRecord
    stopping: bool = False
    # The job's lines, None at its end, errors of reading them, and every Ctrl-C, in order.
    events: "queue.SimpleQueue[str | BaseException | _Interrupt | None]" = field(default_factory=queue.SimpleQueue)

    @classmethod
    def create(
        cls,
        plan: LaunchPlan,
        loaded: LoadedSpec,
        facts: HostFacts,
        options: Options,
        made_of: dict[str, Any],
        *,
        run_id: str | None = None,
    ) -> "Run":
        """Record the run with its provenance (`made_of`) before anything of it starts."""
        folder = create_run(facts.runs, run_id or new_run_id(plan.name), plan.uid, plan.gid)
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
            overrides=(*loaded.overrides, *loaded.found),
            created=now(),
            store=new_store(loaded.spec),
            folder=str(facts.folder),
            **launched_here(),
            **vars(options),
            **cut_diff(made_of, folder),
        )
        folder.write_record(record)
        return cls(folder, record)

    def update(self, **changes: Any) -> None:
        """Change the record, on disk too."""
        self.record = replace(self.record, **changes)
        self.folder.write_record(self.record)

    def start(self, runner: Runner, plan: LaunchPlan, reporter: Reporter) -> str:
        """Make the job's writable folders, owned by its user, and start it; returns the job's name."""
        plan = self.new_attempt(plan)
        self.check_wanted()
        number = len(self.record.attempts)
        job = runner.start(
            plan,
            run_id=self.folder.id,
            attempt=number,
            log=self.folder.log(number),
            secrets=secrets_of(plan),
        )
        self.started(runner, job)
        if self.record.waits_for:
            reporter.note(f"waiting for its turn: {self.record.waits_for}")
        if plan.omitted:
            left_out = ", ".join(f"{each.key} {each.value}".strip() for each in plan.omitted)
            reporter.note(f"the trainer has no flag for these values and does not get them: {left_out}")
        reporter.started(self.record, plan)
        return job

    def new_attempt(self, plan: LaunchPlan) -> LaunchPlan:
        """Put a further attempt on record and make its folders; returns its plan."""
        for folder in plan.writable:
            make_folder(folder, plan.uid, plan.gid)
        claim_output(plan, self.folder.path)
        number = self.folder.new_attempt()
        plan = plan.for_attempt(self.folder.id, self.folder.attempt(number))
        plan = replace(plan, environment={**plan.environment, **attempt_environment(self.record)})
        self.folder.write_json(contract.PLAN_FILE, plan.as_json())
        attempts = (*self.record.attempts, Attempt(number=number, started=now()))
        self.record = replace(self.record, **recorded_plan(plan))
        self.update(
            **launched_here(),
            status="starting",
            started=self.record.started or now(),
            attempts=attempts,
        )
        return plan

    def started(self, runner: Runner, job: str) -> None:
        """Put the job of the newest attempt on record."""
        self.record = self.record.with_attempt(job=job)
        waits = runner.waiting(job)
        status = "queued" if waits else "running"
        self.update(status=status, waits_for=waits, container_id=container_of(runner, job))

    def check_wanted(self) -> None:
        """Raise Interrupted if the run was stopped before its job began."""
        if self.folder.has_stop_request():
            raise Interrupted(f"run {self.folder.id} was stopped before its job began", "")

    def interrupt(self) -> None:
        """Queue a Ctrl-C; `follow` handles it between two lines, so that no write is interrupted."""
        self.events.put(_Interrupt())

    def follow(self, runner: Runner, job: str, reporter: Reporter) -> DimbaError | None:
        """Show the job until it ends; the first Ctrl-C asks what to do, or stops the job without a terminal.

        Returns the error of an attempt that is retried, and raises that of a run that has ended.
        """
        number = len(self.record.attempts)
        metrics = Tail(self.folder.attempt(number) / contract.METRICS_FILE)
        final_error = FinalError(self.folder.attempt(number))
        threading.Thread(target=self._read, args=(runner.follow(job, self.folder.log(number)),), daemon=True).start()
        while (event := self.events.get()) is not None:
            if isinstance(event, BaseException):
                reporter.ended()
                raise event
            if isinstance(event, _Interrupt):
                self._interrupted(runner, job, reporter)
                continue
            if not final_error.holds(event):
                reporter.line(event, [json.loads(line) for line in metrics.lines()])
        reporter.ended()
        error = self.close(runner.wait(job))
        for text in final_error.unreported(error):
            reporter.line(text, [])
        if error and self.record.status != "queued":
            raise error
        return error

    def _read(self, lines: Iterator[str]) -> None:
        try:
            for text in lines:
                self.events.put(text)
            self.events.put(None)
        except BaseException as error:  # the main thread raises it
            self.events.put(error)

    def _interrupted(self, runner: Runner, job: str, reporter: Reporter) -> None:
        if self.stopping:
            reporter.note("killing the job")
            runner.stop(job, 0)
            return
        if reporter.asks_to_stop() is False:
            hint = f"`dimba ps` lists it, `dimba stop {self.folder.id}` saves and ends it"
            raise Interrupted(f"left running: {self.folder.id}", hint)
        self.stopping = True
        self.update(status="stopping")
        reporter.note("stopping: the job saves a checkpoint first; Ctrl-C again kills it")
        # In a thread, as the log is shown until the job has ended.
        threading.Thread(target=runner.stop, args=(job, patience(self.record)), daemon=True).start()

    def close(self, ending: Ending | None) -> DimbaError | None:
        """Record the outcome, or that the run is queued for its next attempt; returns the error of what failed."""
        # `dimba stop` in another terminal writes its request to the record.
        stopping = self.stopping or self.folder.record().status == "stopping"
        status, reason, error = classify_outcome(ending, self.folder, stopping=stopping)
        code = ending.exit_code if ending else None
        if may_retry(self.record, status, reason):  # written once: others take a run that has ended for good
            self.record = self.record.retried(reason, code)
        else:
            self.record = self.record.closed(status, reason, code)
        measured = {**measured_memory(self.folder), **(proof_of_learning(self.folder) if status == "succeeded" else {})}
        self.update(**hub_commits(self.folder.plan()), **measured, **store_state(self.folder, self.record))
        return error

    @contextmanager
    def closing_on_failure(self) -> Iterator[None]:
        """Close the record of a run that did not start, instead of leaving it `building` or `starting`."""
        try:
            yield
        except (DimbaError, KeyboardInterrupt) as error:
            stopped = isinstance(error, KeyboardInterrupt | Interrupted)
            if self.record.status in PENDING:
                ending = ("stopped", self.folder.stop_reason) if stopped else ("failed", "start_failed")
                self.record = self.record.closed(*ending, None)
                self.update()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("interrupted before the job had started", "nothing of it is left running") from None
            raise


def secrets_of(plan: LaunchPlan) -> dict[str, str]:
    """The values of the variables that the spec names, from this environment."""
    return {name: os.environ[name] for name in plan.host_environment}


@contextmanager
def signals(handle: Callable[[], None]) -> Iterator[None]:
    """Call `handle` on SIGTERM and on Ctrl-C."""

    def handler(_signum: int, _frame: FrameType | None) -> None:
        handle()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def interrupted() -> None:
    """Raise KeyboardInterrupt: the handler for work that may be interrupted anywhere."""
    raise KeyboardInterrupt
