"""Notes of the ranks, `<rank>.json` in a folder that they share: `pid`, at the end also `status` and `time`."""

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common.contract import ENV_RANK_DIR, EXIT_STOPPED


def write_note(**values: float) -> None:
    """Replaces this rank's note; does nothing in a process without a supervisor."""
    folder = os.environ.get(ENV_RANK_DIR)
    if not folder:
        return
    path = Path(folder, f"{os.environ.get('RANK', '0')}.json")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values), encoding="utf-8")
    part.rename(path)


@dataclass(frozen=True)
class RankNotes:
    """The notes in `folder`."""

    folder: Path

    def running(self) -> list[int]:
        """Process ids of the ranks that have not ended."""
        return [note["pid"] for note in self._read() if "status" not in note]

    def has_failure(self) -> bool:
        """Whether a rank ended with a status other than 0 and EXIT_STOPPED."""
        return any(note.get("status") not in (None, 0, EXIT_STOPPED) for note in self._read())

    def kill(self) -> None:
        """Sends SIGKILL to all ranks that have not ended."""
        for pid in self.running():
            send_signal(pid, signal.SIGKILL)

    def exit_status(self, launcher: int) -> int:
        """The status of the rank that failed first; a rank without one was killed. Else the `launcher`'s own."""
        notes = self._read()
        ended = sorted((note for note in notes if "status" in note), key=lambda note: note["time"])
        failed = [int(note["status"]) for note in ended if note["status"]]
        if failed:
            return failed[0]
        if len(ended) < len(notes):
            return 128 + signal.SIGKILL
        return launcher if launcher >= 0 else 128 - launcher

    def _read(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("[0-9]*.json")]


def send_signal(pid: int, signum: int) -> None:
    """Sends a signal to a process, which may have ended already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)
