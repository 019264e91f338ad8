"""The job as a process of this machine: the same plan without the container."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common.contract import ENV_ATTEMPT_DIR, ENV_RUN_ID, ENV_SECRETS_ON_STDIN, EXIT_FILE
from dimba.common.errors import HostCannot
from dimba.common.processes import is_alive, start_time
from dimba.common.project import project_root
from dimba.common.runners import RUNNERS
from dimba.host.build_context import EVAL
from dimba.host.facts import ClusterNodes, ImageFacts
from dimba.host.packages import has_tasks, install_command, install_tasks_command, missing_packages
from dimba.plan.model import LaunchPlan
from dimba.runners.deadline import deadline
from dimba.runners.protocol import Conversation, Ending, OneShot, OnLine, Output, Progress, ignored
from dimba.runners.tail import follow_file
from dimba.spec import Container, JobSpec

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # reach the job only where the spec names them
_POLL = 0.05


class ProcessRunner:
    """A job is named `pid:start time:attempt folder`, so that a pid that was given out again is not mistaken."""

    name = "process"
    capabilities = RUNNERS[name]

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def nodes(self, spec: JobSpec) -> ClusterNodes | None:
        """Jobs run on this machine."""
        return None

    def look(self, spec: JobSpec, container: Container | None = None) -> ImageFacts | None:
        """There is no image."""
        return None

    def prepare(
        self, spec: JobSpec, progress: Progress, container: Container | None = None, extra: str | None = None
    ) -> ImageFacts | None:
        """Nothing is built; what trains must be installed beside dimba itself."""
        if missing := missing_packages():
            hint = f"`{install_command(project_root())}`, or start a container engine"
            raise HostCannot(f"not installed here, where the job would run: {', '.join(missing)}", hint)
        if extra == EVAL and not has_tasks():
            hint = f"`{install_tasks_command(project_root())}`, or start a container engine"
            raise HostCannot("lm-eval, which runs tasks, is not installed here", hint)
        return None

    def can_train(self) -> bool:
        """Whether its packages are there."""
        return not missing_packages()

    def start(self, plan: LaunchPlan, *, run_id: str, attempt: int, log: Path, secrets: Mapping[str, str]) -> str:
        """Starts the entry point in a session of its own, so that it outlives the launcher's terminal."""
        inherited = {name: value for name, value in os.environ.items() if name not in TOKENS}
        environment = {**inherited, **plan.environment, ENV_SECRETS_ON_STDIN: "1"}
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    plan.argv,
                    cwd=plan.working_dir,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    **identity(plan.uid, plan.gid),
                )
        except OSError as error:
            whose = f"user {plan.uid}, who owns the place of `output_dir`, cannot run {plan.argv[0]}"
            hint = "use the docker runner, or a Python and an `output_dir` of the same user"
            raise HostCannot(f"{whose}: {error.strerror}", hint) from None
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already: its status says how
            child.stdin.write(json.dumps(dict(secrets)).encode() + b"\n")
            child.stdin.close()
        job = f"{child.pid}:{start_time(child.pid)}:{log.parent}"
        self._children[job] = child
        return job

    def follow(self, job: str, log: Path) -> Iterator[str]:
        """The job writes its log itself; this reads along."""
        yield from follow_file(log, lambda: self.is_running(job))

    def wait(self, job: str) -> Ending | None:
        """By waiting for our child, else by the entry point's note."""
        if child := self._children.get(job):
            code = child.wait()
            return Ending(code if code >= 0 else 128 - code)
        while self.is_running(job):
            time.sleep(_POLL)
        try:
            note = json.loads(Path(job.split(":", 2)[2], EXIT_FILE).read_text(encoding="utf-8"))
            return Ending(int(note["exit_code"]))
        except (OSError, ValueError, KeyError):
            return None

    def is_running(self, job: str) -> bool:
        """Whether that very process, not another with its pid, still runs."""
        if child := self._children.get(job):
            return child.poll() is None
        return is_alive(job)

    def waiting(self, job: str) -> str | None:
        """Nothing waits once it has been started."""
        return None

    def find(self, run_id: str) -> str | None:
        """The entry point that carries the run's id in its environment; those of other users cannot be looked into."""
        wanted = f"{ENV_RUN_ID}={run_id}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (folder / "environ").read_bytes().split(b"\0")
                if wanted in environment and b"dimba.supervisor.entry" in (folder / "cmdline").read_bytes().split(
                    b"\0"
                ):
                    attempt = next(each for each in environment if each.startswith(f"{ENV_ATTEMPT_DIR}=".encode()))
                    return f"{folder.name}:{start_time(int(folder.name))}:{attempt.partition(b'=')[2].decode()}"
        return None

    def held_gpus(self) -> dict[str, str] | None:
        """A process carries no label."""
        return None

    def stop(self, job: str, grace: float) -> None:
        """SIGTERM to the entry point, which tells the ranks; then SIGKILL to all of the session."""
        pid = int(job.split(":", 1)[0])
        deadline = time.monotonic() + grace
        if grace and self.is_running(job):
            os.kill(pid, signal.SIGTERM)
        while self.is_running(job) and time.monotonic() < deadline:
            time.sleep(_POLL)
        if self.is_running(job):
            _kill_tree(pid)

    def run_once(self, argv: Sequence[str], place: OneShot, on_line: OnLine = ignored) -> Output:
        """As the job's user, with the help's lines kept whole."""
        try:
            child = self._spawn_once(argv, place)
        except OSError as error:
            return Output(127, str(error))
        try:
            with deadline(place.timeout, lambda: _kill_tree(child.pid)) as passed:
                text = list(_handed_on(child, on_line))
                status = child.wait()
        finally:
            if child.poll() is None:
                _kill_tree(child.pid)
        return Output(None if passed.is_set() else status, "".join(text))

    def _spawn_once(self, argv: Sequence[str], place: OneShot) -> "subprocess.Popen[str]":
        child = spawn(argv, place, reads=bool(place.secrets))
        if child.stdin:
            child.stdin.close()
        return child

    @contextmanager
    def converse(self, argv: Sequence[str], place: OneShot) -> Iterator[Conversation]:
        """As the job's user, in a session of its own."""
        try:
            child = spawn(argv, place, reads=True, start_new_session=True)
        except OSError as error:
            hint = "`dimba doctor` checks this machine"
            raise HostCannot(f"{argv[0]} does not start: {error.strerror}", hint) from None
        try:
            yield ProcessConversation(child)
        finally:
            if child.poll() is None:
                _kill_tree(child.pid)
            child.wait()


def spawn(argv: Sequence[str], place: OneShot, *, reads: bool, **how: Any) -> "subprocess.Popen[str]":
    """Starts a one-shot command, and sends its secrets; `reads`: its stdin stays open for more."""
    inherited = {name: value for name, value in os.environ.items() if name not in TOKENS}
    with_secrets = {ENV_SECRETS_ON_STDIN: "1"} if place.secrets else {}
    child = subprocess.Popen(
        argv,
        env={**inherited, "COLUMNS": "200", **place.environment, **with_secrets},
        stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **identity(place.uid, place.gid),
        **how,
    )
    if child.stdin and place.secrets:
        child.stdin.write(json.dumps(dict(place.secrets)) + "\n")
        child.stdin.flush()
    return child


@dataclass(frozen=True)
class ProcessConversation:
    """A conversation over pipes."""

    child: "subprocess.Popen[str]"

    def send(self, line: str) -> None:
        """Writes to its stdin."""
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(line + "\n")
            self.child.stdin.flush()

    def lines(self) -> Iterator[str]:
        """Reads its stdout and stderr."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            yield line.rstrip("\n")

    def wait(self) -> int:
        """The process's own status, 128 + n after signal n."""
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        code = self.child.wait()
        return code if code >= 0 else 128 - code


def _handed_on(child: "subprocess.Popen[str]", on_line: OnLine) -> Iterator[str]:
    assert child.stdout is not None
    for line in child.stdout:
        on_line(line.rstrip("\n"))
        yield line


def identity(uid: int, gid: int) -> dict[str, Any]:
    """Arguments of Popen by which root runs the job as the given user; empty for other callers."""
    if os.geteuid() != 0 or uid == 0:
        return {}
    return {"user": uid, "group": gid, "extra_groups": []}


def _kill_tree(pid: int) -> None:
    """Kills a process and all below it; `accelerate launch` is a session of its own, so a group is not enough."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        os.kill(pid, signal.SIGKILL)
        for child in children:
            _kill_tree(int(child))
