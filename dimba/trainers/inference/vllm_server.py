"""vLLM's server on a Unix socket, for as long as stdin is open: `python -m dimba.trainers.inference.vllm_server`.

Its first line on stdin is a `load` request with `socket` and `name` beside the model; `ready` or `error` follows.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dimba.common import inference
from dimba.common.checkpoint.adapter import CONFIG
from dimba.common.contract import read_json_object
from dimba.common.errors import DimbaError, HostCannot
from dimba.common.trained import TrainedModel
from dimba.supervisor.job_secrets import read_secrets

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of vLLM's MaxLoRARanks
_POLL, _GRACE = 0.2, 5.0  # seconds
# It asks its own host's name otherwise, which a container without a network cannot resolve.
_ENVIRONMENT = {
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


def main() -> int:
    """Starts vLLM and waits for its end; returns its exit status."""
    os.environ.update(read_secrets())
    line = sys.stdin.readline()
    if not line:
        return 0
    request = json.loads(line)[inference.LOAD]
    try:
        command = _command(request)
    except DimbaError as error:
        _print(inference.ERROR, error.as_json())
        return error.exit_status
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env={**os.environ, **_ENVIRONMENT}, start_new_session=True
    )
    threading.Thread(target=_end_with_stdin, args=(child,), daemon=True).start()
    while child.poll() is None and not _is_healthy(request["socket"]):
        time.sleep(_POLL)
    if child.poll() is None:
        _print(inference.READY, {})
    return child.wait()


def _command(request: Mapping[str, Any]) -> list[str]:
    if find_spec("vllm") is None:
        raise HostCannot("vLLM is not installed here", "`--runner docker` uses an image that has it")
    trained = TrainedModel.from_json(request["models"][0])
    folder = Path(request["socket"]).parent
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": _ends(trained)}), encoding="utf-8")
    return [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "serve", *arguments(trained, request)]


def _ends(trained: TrainedModel) -> list[int]:
    """The ids of the tokens that end a turn, as `dimba chat` ends it."""
    from transformers import GenerationConfig  # seconds

    from dimba.trainers.data.render import TemplateSettings
    from dimba.trainers.models.trained import end_tokens, trained_tokenizer

    config: Any = None
    with suppress(OSError):  # a folder may lack one
        config = GenerationConfig.from_pretrained(trained.base or trained.folder)
    return list(end_tokens(trained_tokenizer(trained), config, TemplateSettings.of(trained)))


def arguments(trained: TrainedModel, request: Mapping[str, Any]) -> list[str]:
    """The arguments of `vllm serve`."""
    name, place = str(request["name"]), str(request["socket"])
    found = [trained.base or trained.folder, "--uds", place, "--generation-config", str(Path(place).parent)]
    if trained.is_adapter:
        rank = int(read_json_object(Path(trained.folder) / CONFIG).get("r") or 8)
        found += ["--served-model-name", f"{name}-base", "--enable-lora", "--lora-modules", f"{name}={trained.folder}"]
        found += ["--max-lora-rank", str(next(each for each in _RANKS if each >= rank))]
        if (Path(trained.folder) / "tokenizer_config.json").is_file():
            found += ["--tokenizer", trained.folder]
    else:
        found += ["--served-model-name", name]
    if trained.chat_template_kwargs:
        found += ["--default-chat-template-kwargs", trained.chat_template_kwargs]
    if int(request.get("gpus", 1)) > 1:
        found += ["--tensor-parallel-size", str(request["gpus"])]
    return found + (["--trust-remote-code"] if trained.trust_remote_code else [])


def _is_healthy(place: str) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_GRACE)
        connection.connect(place)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 " in connection.recv(64)
    return False


def _end_with_stdin(child: subprocess.Popen[bytes]) -> None:
    """Ends vLLM and its processes once the host has ended."""
    for _ in sys.stdin:
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)


def _print(kind: str, value: Any) -> None:
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
