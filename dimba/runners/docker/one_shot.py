"""One-shot commands in containers that are removed at their end, and conversations with them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from docker.errors import APIError, NotFound
from docker.utils.socket import frames_iter

import docker
from dimba.common.contract import ENV_SECRETS_ON_STDIN, LABEL_GPUS, LABEL_RUN_ID
from dimba.runners.docker.request import LOCKED_DOWN, gpu_requests, mounts
from dimba.runners.docker.translate import translated
from dimba.runners.protocol import OneShot

_CONFLICT = 409


def on_stdin(secrets: Mapping[str, str] | None) -> dict[str, str]:
    """The variable that tells a command to read its secrets; an environment would be shown by `docker inspect`."""
    return {ENV_SECRETS_ON_STDIN: "1"} if secrets else {}


@contextmanager
def one_shot_container(
    api: docker.APIClient, argv: Sequence[str], place: OneShot, user: str, *, reads: bool = False
) -> Iterator[str]:
    """The id of a container that is not started yet; it is removed after the block. Raises EngineFailed, HostCannot."""
    container = ""
    try:
        container = _create(api, argv, place, user, reads=reads)
        yield container
    except APIError as error:
        raise translated(str(error.explanation), f"running `{' '.join(argv[:3])}` in the image") from None
    finally:
        if container:
            _remove(api, container)


def _remove(api: docker.APIClient, container: str) -> None:
    with suppress(NotFound):  # it has removed itself, or `dimba prune` was quicker
        try:
            api.remove_container(container, force=True)
        except APIError as error:
            if error.status_code != _CONFLICT:
                raise
            api.wait(container, condition="removed")  # it is removing itself


def _create(api: docker.APIClient, argv: Sequence[str], place: OneShot, user: str, *, reads: bool) -> str:
    holder = {LABEL_RUN_ID: place.name, LABEL_GPUS: ",".join(gpu.id for gpu in place.gpus)} if place.name else {}
    created = api.create_container(
        place.image,
        list(argv),
        user=user,
        environment={"COLUMNS": "200", **_devices(place), **place.environment, **on_stdin(place.secrets)},
        labels=holder,
        stdin_open=reads or bool(place.secrets),
        network_disabled=not place.network,
        host_config=api.create_host_config(
            mounts=mounts(place.mounts),
            device_requests=gpu_requests(place.gpus, place.gpu_devices),
            network_mode="host" if place.network and place.host_network else None,
            auto_remove=reads,  # it ends with this process, which may have been killed
            **LOCKED_DOWN,
        ),
    )
    return str(created["Id"])


def _devices(place: OneShot) -> dict[str, str]:
    """An engine whose default runtime is nvidia's would show all GPUs, whatever CDI was asked for."""
    return {"NVIDIA_VISIBLE_DEVICES": "void"} if place.name and (place.gpu_devices or not place.gpus) else {}


@dataclass(frozen=True)
class ContainerConversation:
    """A conversation over the container's attached stdin, stdout and stderr."""

    api: Any  # the SDK's client, whose public `wait` sends its request and reads the response at once
    ending: Any  # the engine's response, whose body is the status
    stream: Any

    @classmethod
    def begin(cls, api: Any, container: str, secrets: Mapping[str, str]) -> "ContainerConversation":
        """Attaches to a container before it starts, so that no line is lost, and starts it."""
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        stream = api.attach_socket(container, params=wanted)
        # Asked for before it starts, as it removes itself at its end.
        url, at_exit = api._url("/containers/{0}/wait", container), {"condition": "next-exit"}
        conversation = cls(api, api._post(url, params=at_exit, stream=True), stream)
        api.start(container)
        if secrets:
            conversation.send(json.dumps(dict(secrets)))
        return conversation

    def send(self, line: str) -> None:
        """Writes to its stdin."""
        with suppress(OSError):  # it has ended: its status says how
            self.stream._sock.sendall(line.encode() + b"\n")

    def lines(self) -> Iterator[str]:
        """The frames of both streams, cut into lines."""
        part = b""
        for _stream, data in frames_iter(self.stream, tty=False):
            *lines, part = (part + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if part:
            yield part.decode(errors="replace")

    def wait(self) -> int:
        """The container's own status."""
        with suppress(OSError):
            self.stream._sock.shutdown(1)  # the write half alone
        return int(self.api._result(self.ending, True)["StatusCode"])
