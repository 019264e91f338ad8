"""One of the machines of a job: its share of the launch command, and the failures of the other machines."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common import contract

_WRAPPER = "dimba.supervisor.rank"
_NODE_FLAGS = ("--num_machines", "--num_processes", "--machine_rank", "--main_process_ip", "--main_process_port")
_EXIT_NOTE_DELAY = 5.0  # seconds in which another machine's exit.json may arrive over a shared file system
SECONDS_AFTER_FAILURE = 5.0  # from a failure to the end of the ranks that wait for the failed one


@dataclass(frozen=True)
class Node:
    """Machine `rank` of `nodes`; rank 0 keeps the log, the metrics and exit.json."""

    rank: int = 0
    nodes: int = 1
    address: str = ""
    port: str = ""

    @classmethod
    def from_environment(cls) -> "Node":
        """The machine that the launcher describes; a single one if it describes none."""
        nodes = int(os.environ.get(contract.ENV_NODES) or 1)
        if nodes == 1:
            return cls()
        rank = int(os.environ[contract.ENV_NODE_RANK])
        return cls(rank, nodes, os.environ[contract.ENV_MAIN_ADDRESS], os.environ[contract.ENV_MAIN_PORT])

    def file(self, name: str) -> str:
        """This machine's name for a file: log.txt on the first machine, log-1.txt on the second."""
        path = Path(name)
        return f"{path.stem}-{self.rank}{path.suffix}" if self.rank else name

    def launch_command(self, argv: Sequence[str]) -> list[str]:
        """`argv`, an `accelerate launch` on one machine, as this machine's share of a launch on all of them."""
        if self.nodes == 1 or _WRAPPER not in argv:
            return list(argv)
        end = argv.index(_WRAPPER) - 1
        launch, rest = argv[:end], argv[end:]
        processes = int(launch[launch.index("--num_processes") + 1]) * self.nodes
        kept = _without_node_flags(launch)
        is_sharded = "--use_fsdp" in kept
        values = (str(self.nodes), str(processes), str(self.rank), self.address, self.port)
        pairs = zip(_NODE_FLAGS, values, strict=True)
        return [*kept, *([] if is_sharded else ["--multi_gpu"]), *(word for pair in pairs for word in pair), *rest]

    def first_failure(self, folder: Path | None, own: dict[str, Any]) -> dict[str, Any]:
        """The exit note of the machine that failed first, `own` or another's; a stopped machine has not failed."""
        if self.nodes == 1 or folder is None:
            return own
        deadline = time.monotonic() + _EXIT_NOTE_DELAY
        while not (notes := _failures(self._other_exit_notes(folder))) and time.monotonic() < deadline:
            time.sleep(0.1)
        return min([*_failures([own]), *notes], key=lambda note: float(note["at"]), default=own)

    def another_failed(self, folder: Path | None) -> bool:
        """Whether another machine has noted a failure."""
        return self.nodes > 1 and folder is not None and bool(_failures(self._other_exit_notes(folder)))

    def _other_exit_notes(self, folder: Path) -> list[dict[str, Any]]:
        stem, suffix = Path(contract.EXIT_FILE).stem, Path(contract.EXIT_FILE).suffix
        return [contract.read_json_object(path) for path in folder.glob(f"{stem}-*{suffix}")]


def _without_node_flags(launch: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in launch:
        if skip or word in ("--multi_gpu", "--cpu"):
            skip = False
        elif word in _NODE_FLAGS:
            skip = True
        else:
            kept.append(word)
    return kept


def _failures(notes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [note for note in notes if note.get("exit_code") not in (None, 0, contract.EXIT_STOPPED) and "at" in note]
