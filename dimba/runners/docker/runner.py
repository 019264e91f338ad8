"""The job in a container: asked for as the plan says, followed, stopped, and never left behind half-made."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import DeviceRequest, LogConfig, Mount
from requests.exceptions import RequestException

import docker
from dimba.contract import ENV_SECRETS_ON_STDIN, LABEL_ATTEMPT, LABEL_RUN_ID
from dimba.errors import EngineFailed
from dimba.host.facts import Gpu, ImageFacts
from dimba.plan import LaunchPlan
from dimba.plan import Mount as PlannedMount
from dimba.runners.deadline import deadline
from dimba.runners.docker.engine import Engine
from dimba.runners.docker.image import build, look_at_image, pull
from dimba.runners.docker.translate import translated
from dimba.runners.protocol import Ending, OnLine, Output, Progress, Throwaway, ignored
from dimba.spec import JobSpec

_LOG = {"max-size": "50m", "max-file": "3"}
_KILL_GRACE = 30
_GONE = "start it again; `dimba ps` then says what became of the run, which may well go on"


@dataclass
class DockerRunner:
    """A job is named by its container's id."""

    engine: Engine
    project: Path
    name: str = field(default="docker", init=False)

    @property
    def api(self) -> docker.APIClient:
        """The engine's client."""
        return self.engine.api

    def look(self, spec: JobSpec) -> ImageFacts | None:
        """Asks the engine what it has."""
        return look_at_image(self.api, spec, self.project)

    def prepare(self, spec: JobSpec, progress: Progress) -> ImageFacts | None:
        """Pulls what a registry has, builds our own; a base that had to be pulled first changes the key."""
        image = look_at_image(self.api, spec, self.project)
        if image.base is not None and image.base_digest is None:
            pull(self.api, image.base, progress)
            image = look_at_image(self.api, spec, self.project)
        if image.id is not None:
            return image
        if image.key is None:
            pull(self.api, image.reference, progress)
        else:
            build(self.api, image, self.project, progress)
        return look_at_image(self.api, spec, self.project)

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
        environment = {**plan.environment, **_on_stdin(secrets)}
        if not plan.gpus or plan.gpu_devices:
            # An engine whose default runtime is nvidia's would show them all, whatever CDI was asked for.
            environment["NVIDIA_VISIBLE_DEVICES"] = "void"
        created = self.api.create_container(
            plan.image.reference,
            list(plan.argv),
            name=f"dimba-{run_id}-{attempt}",
            user=self._user(plan.uid, plan.gid),
            environment=environment,
            labels={LABEL_RUN_ID: run_id, LABEL_ATTEMPT: str(attempt)},
            working_dir=plan.working_dir,
            stdin_open=bool(secrets),
            stop_timeout=_KILL_GRACE,
            host_config=self._host_config(plan),
        )
        return str(created["Id"])

    def _host_config(self, plan: LaunchPlan) -> Any:
        return self.api.create_host_config(
            mounts=_mounts(plan.mounts),
            device_requests=gpu_requests(plan.gpus, plan.gpu_devices),
            shm_size=plan.shm_bytes,
            mem_limit=plan.memory_bytes,
            init=True,
            group_add=[] if os.geteuid() == 0 else [str(group) for group in os.getgroups()],
            security_opt=["no-new-privileges"],
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
        """Lines of the container's output from its start; the log is written before a line is handed on."""
        with log.open("wb", buffering=0) as file:
            yield from self._lines(job, file.write)

    def _lines(self, job: str, keep: Callable[[bytes], object] = lambda _chunk: None) -> Iterator[str]:
        part = b""
        try:
            for chunk in self.api.logs(job, stream=True, follow=True):
                keep(chunk)
                *lines, part = (part + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except NotFound:
            return
        except RequestException as error:
            raise EngineFailed(f"the engine stopped answering: {error}", _GONE) from None
        if part:
            yield part.decode(errors="replace")

    def wait(self, job: str) -> Ending | None:
        """The container's own status; None where it is gone."""
        try:
            status = int(self.api.wait(job)["StatusCode"])
            state = self.api.inspect_container(job)["State"]
        except NotFound:
            return None
        except RequestException as error:
            raise EngineFailed(f"the engine stopped answering: {error}", _GONE) from None
        return Ending(status, out_of_memory=bool(state.get("OOMKilled")))

    def is_running(self, job: str) -> bool:
        """Whether the container is there and running."""
        try:
            return bool(self.api.inspect_container(job)["State"]["Running"])
        except NotFound:
            return False

    def stop(self, job: str, grace: float) -> None:
        """`docker stop` with this grace, `docker kill` for none."""
        try:
            if grace:
                self.api.stop(job, timeout=int(grace))
            else:
                self.api.kill(job)
        except APIError as error:
            if error.status_code not in (404, 409):  # gone or ended already
                raise translated(str(error.explanation), "stopping the container") from None

    def run_once(self, argv: Sequence[str], place: Throwaway, on_line: OnLine = ignored) -> Output:
        """A container that is removed at once."""
        container = ""
        try:
            container = self._create_throwaway(argv, place)
            self._start(container, place.secrets or {})
            return self._watched(container, place.timeout, on_line)
        except APIError as error:
            raise translated(str(error.explanation), f"running `{' '.join(argv[:3])}` in the image") from None
        finally:
            if container:
                self.api.remove_container(container, force=True)

    def _create_throwaway(self, argv: Sequence[str], place: Throwaway) -> str:
        requests = gpu_requests(place.gpus, place.gpu_devices)
        created = self.api.create_container(
            place.image,
            list(argv),
            user=self._user(place.uid, place.gid),
            environment={"COLUMNS": "200", **place.environment, **_on_stdin(place.secrets)},
            stdin_open=bool(place.secrets),
            network_disabled=not place.network,
            host_config=self.api.create_host_config(
                mounts=_mounts(place.mounts), init=True, device_requests=requests, security_opt=["no-new-privileges"]
            ),
        )
        return str(created["Id"])

    def _watched(self, container: str, timeout: float, on_line: OnLine) -> Output:
        with deadline(timeout, lambda: self.stop(container, 0)) as passed:
            text = []
            for line in self._lines(container):
                text.append(line)
                on_line(line)
            status = int(self.api.wait(container)["StatusCode"])
        return Output(None if passed.is_set() else status, "\n".join(text) + "\n")


def _on_stdin(secrets: Mapping[str, str] | None) -> dict[str, str]:
    return {ENV_SECRETS_ON_STDIN: "1"} if secrets else {}


def gpu_requests(gpus: Sequence[Gpu], cdi_devices: Sequence[str]) -> list[DeviceRequest]:
    """By id on both paths, as a count always means the first cards."""
    if not gpus:
        return []
    if cdi_devices:
        return [DeviceRequest(driver="cdi", device_ids=list(cdi_devices))]
    ids = [gpu.uuid or str(gpu.index) for gpu in gpus]
    return [DeviceRequest(driver="nvidia", device_ids=ids, capabilities=[["gpu"]])]


def _mounts(mounts: Sequence[PlannedMount]) -> list[Mount]:
    return [Mount(each.target, each.source, type="bind", read_only=each.read_only) for each in mounts]
