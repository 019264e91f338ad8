"""llama.cpp's tools as processes, whose lines can be followed and whose failures have words."""

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO

from dimba.common.errors import BadInput, DimbaError, HostCannot
from dimba.trainers.export.gguf import library

# -P: without it, a module of the same name in the current folder would be imported.
_TOOL = ("-P", "-m", "dimba.trainers.export.gguf.tool")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_CAUSE = re.compile(r"^(?:ERROR:[\w-]+:|(?:[\w.]+\.)?\w*(?:Error|Exception)\b:?)\s*")


def follow(arguments: Sequence[str], failed: str) -> Iterator[str]:
    """The lines that the tool prints; the process ends with the iteration.

    Raises:
        BadInput: the tool failed; `failed` begins the sentence.
        HostCannot: the disk is full.
    """
    last: deque[str] = deque(maxlen=4)
    command = [sys.executable, *_TOOL, *arguments]
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), *library.search_path())))
    environment = os.environ | _OFFLINE | ({"PYTHONPATH": path} if path else {})
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, **streams) as process:  # type: ignore[call-overload]
        try:
            for line in _lines(process.stdout):
                last.append(line)
                yield line
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _failure(failed, last)


def _failure(failed: str, last: Sequence[str]) -> DimbaError:
    cause = _CAUSE.sub("", last[-1]) if last else "it printed nothing"
    if "No space left" in cause:
        return HostCannot(f"{failed}: the disk is full", "`df -h` shows what is free; remove what is not needed")
    return BadInput(f"{failed}: {cause}", "export without GGUF (`--merged`), which needs no llama.cpp")


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """What a process prints, by line, and by rewritten line of a progress bar."""
    rest = b""
    while data := os.read(stream.fileno(), 65536):
        *lines, rest = re.split(rb"[\r\n]+", rest + data)
        yield from (line.decode(errors="replace").strip() for line in lines if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace").strip()
