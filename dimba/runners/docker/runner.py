"""The job in a container: asked for as the plan says, followed, stopped, and never left behind half-made."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import LogConfig
from requests.exceptions import RequestException

import docker
from dimba.common.contract import (
    EXIT_FILE,
    LABEL_ATTEMPT,
    LABEL_GPUS,
    LABEL_RUN_ID,
    LATEST,
)
from dimba.common.errors import EngineFailed
from dimba.common.runners import RUNNERS, Capabilities
from dimba.host.facts import ClusterNodes, ImageFacts
from dimba.plan.model import LaunchPlan
from dimba.runners.deadline import deadline
from dimba.runners.docker.engine import Engine, engine_started
from dimba.runners.docker.image import build, look_at_image, pull
from dimba.runners.docker.liveness import Liveness
from dimba.runners.docker.newest import build_latest
from dimba.runners.docker.one_shot import ContainerConversation, on_stdin, one_shot_container
from dimba.runners.docker.request import LOCKED_DOWN, NAMES, OWN_NAME, gpu_requests, mounts
from dimba.runners.docker.translate import translated
from dimba.runners.protocol import Conversation, Ending, OneShot, OnLine, Output, Progress, ignored
from dimba.runners.tail import follow_file
from dimba.spec import Container, JobSpec

_LOG = {"max-size": "50m", "max-file": "3"}
_POLL = 0.2  # seconds between two looks at a container
_GONE = "restart it; the run may still be active: check `dimba ps`"


@dataclass
class DockerRunner:
    """A job is named by its container's id."""

    engine: Engine
    project: Path
    name: str = field(default="docker", init=False)
    capabilities: Capabilities = field(default=RUNNERS["docker"], init=False)

    @property
    def api(self) -> docker.APIClient:
        """The engine's client."""
        return self.engine.api

    def nodes(self, spec: JobSpec) -> ClusterNodes | None:
        """Containers run on this machine."""
        return None

    def look(self, spec: JobSpec, container: Container | None = None) -> ImageFacts | None:
        """Asks the engine what it has."""
        return look_at_image(self.api, spec, self.project, container)

    def prepare(
        self, spec: JobSpec, progress: Progress, container: Container | None = None, extra: str | None = None
    ) -> ImageFacts | None:
        """Pulls what a registry has, builds our own; a base that had to be pulled first changes the key."""
        look = partial(look_at_image, self.api, spec, self.project, container, extra)
        image = look()
        if image.base is not None and image.base_digest is None:
            pull(self.api, image.base, progress)
            image = look()
        if image.id is not None:
            return image
        if image.key is None:
            pull(self.api, image.reference, progress)
        elif image.pins == LATEST:
            build_latest(self.api, image, self.project, progress, self.run_once)
        else:
            build(self.api, image, self.project, progress)
        return look()

    def can_train(self) -> bool:
        """What trains is in the image."""
        return True

    def start(self, plan: LaunchPlan, *, run_id: str, attempt: int, log: Path, secrets: Mapping[str, str]) -> str:
        """Creates and starts the container; one that does not start is removed again."""
        assert plan.image is not None
        doing = "starting the container"
        try:
            container = self._create(plan, run_id, attempt, secrets)
        except APIError as error:
            raise translated(str(error.explanation), doing) from None
        try:
            self._start(container, secrets)
        except APIError as error:
            self.api.remove_container(container, force=True)
            raise translated(str(error.explanation), doing) from None
        return container

    def _create(self, plan: LaunchPlan, run_id: str, attempt: int, secrets: Mapping[str, str]) -> str:
        assert plan.image is not None
        environment = {**plan.environment, **on_stdin(secrets)}
        if not plan.gpus or plan.gpu_devices:
            # An engine whose default runtime is nvidia's would show them all, whatever CDI was asked for.
            environment["NVIDIA_VISIBLE_DEVICES"] = "void"
        created = self.api.create_container(
            plan.image.reference,
            list(plan.argv),
            name=f"dimba-{run_id}-{attempt}",
            user=self._user(plan.uid, plan.gid),
            environment=environment,
            labels={LABEL_RUN_ID: run_id, LABEL_ATTEMPT: str(attempt), LABEL_GPUS: ",".join(plan.gpu_ids)},
            working_dir=plan.working_dir,
            hostname=OWN_NAME if plan.network == "none" else None,
            stdin_open=bool(secrets),
            stop_timeout=plan.stop_seconds,
            host_config=self._host_config(plan),
            use_config_proxy=plan.network != "none",
        )
        return str(created["Id"])

    def _host_config(self, plan: LaunchPlan) -> Any:
        return self.api.create_host_config(
            mounts=mounts(plan.mounts),
            device_requests=gpu_requests(plan.gpus, plan.gpu_devices),
            shm_size=plan.shm_bytes,
            mem_limit=plan.memory_bytes,
            network_mode=plan.network or "bridge",
            extra_hosts=NAMES if plan.network == "none" else None,
            group_add=[] if os.geteuid() == 0 else [str(group) for group in os.getgroups()],
            **LOCKED_DOWN,
            log_config=LogConfig(type="json-file", config=_LOG),
        )

    def _start(self, container: str, secrets: Mapping[str, str]) -> None:
        if not secrets:
            self.api.start(container)
            return
        # Values go over stdin: an environment variable would be shown by `docker inspect`.
        stream = self.api.attach_socket(container, params={"stdin": 1, "stream": 1})
        self.api.start(container)
        stream._sock.sendall(json.dumps(dict(secrets)).encode() + b"\n")
        stream.close()

    def _user(self, uid: int, gid: int) -> str:
        # In a rootless engine the container's root already is the caller.
        return "0:0" if self.engine.facts.rootless else f"{uid}:{gid}"

    def follow(self, job: str, log: Path) -> Iterator[str]:
        """The job writes its log itself, so that it outlives us and the engine; one that could not is asked for."""
        yield from follow_file(log, Liveness(self.is_running, job, log.parent / EXIT_FILE))
        if not log.stat().st_size:
            said = self._said(job)
            log.write_bytes(said)
            yield from said.decode(errors="replace").splitlines()

    def _said(self, job: str) -> bytes:
        try:
            return bytes(self.api.logs(job))
        except (APIError, RequestException):
            return b""

    def _lines(self, container: str) -> Iterator[str]:
        part = b""
        for chunk in self.api.logs(container, stream=True, follow=True):
            *lines, part = (part + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if part:
            yield part.decode(errors="replace")

    def wait(self, job: str) -> Ending | None:
        """The container's own status; None where it is gone."""
        state = self._state(job)
        while state and state["Running"]:
            time.sleep(_POLL)
            state = self._state(job)
        if not state:
            return None
        restarted = engine_started(self.engine.facts) > _moment(state["StartedAt"])
        return Ending(int(state["ExitCode"]), bool(state.get("OOMKilled")), engine_restarted=restarted)

    def is_running(self, job: str) -> bool:
        """Whether the container is there and running."""
        state = self._state(job)
        return bool(state and state["Running"])

    def _state(self, job: str) -> dict[str, Any] | None:
        """What the engine knows of a container; None where it is gone. Raises EngineFailed."""
        try:
            found: dict[str, Any] = self.api.inspect_container(job)["State"]
            return found
        except NotFound:
            return None
        except (APIError, RequestException) as error:
            raise EngineFailed(f"the engine stopped answering: {error}", _GONE) from None

    def stop(self, job: str, grace: float) -> None:
        """SIGTERM and patience, SIGKILL after it; the job has a grace of its own for its trainer."""
        deadline = time.monotonic() + grace
        if grace:
            self._signal(job, "SIGTERM")
        while self.is_running(job) and time.monotonic() < deadline:
            time.sleep(_POLL)
        if self.is_running(job):
            self._signal(job, "SIGKILL")

    def _signal(self, job: str, name: str) -> None:
        try:
            self.api.kill(job, signal=name)
        except APIError as error:
            if error.status_code not in (404, 409):  # gone or ended already
                raise translated(str(error.explanation), "stopping the container") from None

    def held_gpus(self) -> dict[str, str]:
        """The GPUs of running jobs → the run's id, by the labels of their containers. Raises EngineFailed."""
        try:
            found = self.api.containers(filters={"label": LABEL_RUN_ID})
        except (APIError, RequestException) as error:
            raise EngineFailed(f"the engine stopped answering: {error}", _GONE) from None
        labels = [each["Labels"] for each in found]
        return {gpu: each[LABEL_RUN_ID] for each in labels for gpu in each.get(LABEL_GPUS, "").split(",") if gpu}

    def waiting(self, job: str) -> str | None:
        """None: a started container runs at once."""
        return None

    def find(self, run_id: str) -> str | None:
        """The newest container of a run, by its label."""
        try:
            found = self.api.containers(all=True, filters={"label": f"{LABEL_RUN_ID}={run_id}"})
            for each in found:  # created by a launcher that ended before it started them
                if each["State"] == "created":
                    self.api.remove_container(each["Id"], force=True)
        except (APIError, RequestException) as error:
            raise EngineFailed(f"the engine stopped answering: {error}", _GONE) from None
        found = [each for each in found if each["State"] != "created"]
        newest = max(found, key=lambda each: int(each["Labels"].get(LABEL_ATTEMPT, "0")), default=None)
        return str(newest["Id"]) if newest else None

    def run_once(self, argv: Sequence[str], place: OneShot, on_line: OnLine = ignored) -> Output:
        """A container that is removed at once."""
        with one_shot_container(self.api, argv, place, self._user(place.uid, place.gid)) as container:
            self._start(container, place.secrets or {})
            return self._watched(container, place.timeout, on_line)

    @contextmanager
    def converse(self, argv: Sequence[str], place: OneShot) -> Iterator[Conversation]:
        """A container whose stdin closes, so that the command ends, when this process ends."""
        with one_shot_container(self.api, argv, place, self._user(place.uid, place.gid), reads=True) as container:
            yield ContainerConversation.begin(self.api, container, place.secrets or {})

    def _watched(self, container: str, timeout: float, on_line: OnLine) -> Output:
        with deadline(timeout, lambda: self.stop(container, 0)) as passed:
            text = []
            for line in self._lines(container):
                text.append(line)
                on_line(line)
            status = int(self.api.wait(container)["StatusCode"])
        return Output(None if passed.is_set() else status, "\n".join(text) + "\n")


def _moment(text: str) -> float:
    """Seconds since the epoch of what the engine calls a time, which has nine digits after the point."""
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()
