"""One of several machines of a job: where the others are, and how they end."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common import contract

_WRAPPER = "dimba.supervisor.rank"
_OWN = ("--num_machines", "--num_processes", "--machine_rank", "--main_process_ip", "--main_process_port")
_LATE_WORD = 5.0  # seconds for what another machine says of its end, over a shared file system
# Between a failure and the end of what waits for it in vain.
SECONDS_AFTER_FAILURE = 5.0


@dataclass(frozen=True)
class Node:
    """This machine among `nodes`; the first, rank 0, keeps the log, the metrics and the last word."""

    rank: int = 0
    nodes: int = 1
    address: str = ""
    port: str = ""

    @classmethod
    def of_environment(cls) -> "Node":
        """As whoever started the job says; alone where nobody does."""
        nodes = int(os.environ.get(contract.ENV_NODES) or 1)
        if nodes == 1:
            return cls()
        rank = int(os.environ[contract.ENV_NODE_RANK])
        return cls(rank, nodes, os.environ[contract.ENV_MAIN_ADDRESS], os.environ[contract.ENV_MAIN_PORT])

    def file(self, name: str) -> str:
        """This machine's file of a kind: log.txt of the first, log-1.txt of the next."""
        path = Path(name)
        return f"{path.stem}-{self.rank}{path.suffix}" if self.rank else name

    def spread(self, argv: Sequence[str]) -> list[str]:
        """`accelerate launch` for one machine as its share of all of them."""
        if self.nodes == 1 or _WRAPPER not in argv:
            return list(argv)
        end = argv.index(_WRAPPER) - 1
        launch, rest = argv[:end], argv[end:]
        processes = int(launch[launch.index("--num_processes") + 1]) * self.nodes
        kept = _without_own(launch)
        sharded = any(each == "--use_fsdp" for each in kept)
        values = (str(self.nodes), str(processes), str(self.rank), self.address, self.port)
        pairs = zip(_OWN, values, strict=True)
        return [*kept, *([] if sharded else ["--multi_gpu"]), *(word for pair in pairs for word in pair), *rest]

    def first_failure(self, folder: Path | None, own: dict[str, Any]) -> dict[str, Any]:
        """Of the words of all machines, that of the one which failed first; a machine that was told to end did not."""
        if self.nodes == 1 or folder is None:
            return own
        deadline = time.monotonic() + _LATE_WORD
        while not (words := _failed(self._others(folder))) and time.monotonic() < deadline:
            time.sleep(0.1)
        return min([*_failed([own]), *words], key=lambda word: float(word["at"]), default=own)

    def another_failed(self, folder: Path | None) -> bool:
        """Whether another machine says so already."""
        return self.nodes > 1 and folder is not None and bool(_failed(self._others(folder)))

    def _others(self, folder: Path) -> list[dict[str, Any]]:
        stem, suffix = Path(contract.EXIT_FILE).stem, Path(contract.EXIT_FILE).suffix
        return [contract.json_object(path) for path in folder.glob(f"{stem}-*{suffix}")]


def _without_own(launch: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in launch:
        if skip or word in ("--multi_gpu", "--cpu"):
            skip = False
        elif word in _OWN:
            skip = True
        else:
            kept.append(word)
    return kept


def _failed(words: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [word for word in words if word.get("exit_code") not in (None, 0, contract.EXIT_STOPPED) and "at" in word]
