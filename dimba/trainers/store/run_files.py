"""The record of a run, its metrics and logs, in the store beside its checkpoints."""

from contextlib import suppress
from pathlib import Path

from dimba.common import contract
from dimba.common.output_store import RUN
from dimba.trainers.store.filesystem import Store

_RECORD = (contract.SPEC_FILE, contract.RUN_FILE, contract.PLAN_FILE, contract.DIFF_FILE)
_METRICS = (contract.METRICS_FILE, contract.DATA_FILE)
_AT_END = (contract.LOG_FILE, contract.SAMPLES_FILE, contract.LEARNING_FILE, contract.LIKELIEST_FILE)


class RunFiles:
    """The files below the run's folder; each is sent again once it has changed."""

    def __init__(self, store: Store, run: Path) -> None:
        self._store, self._run = store, run
        self._sent: dict[str, tuple[int, int]] = {}  # with the time and size of what was sent

    def send_once(self) -> None:
        """Sends record and metrics, unless they were sent already."""
        if not self._sent:
            self.send()

    def send(self, *, at_end: bool = False) -> None:
        """Sends record and metrics; at the end of training logs too, which grow until then."""
        names = (*_METRICS, *_AT_END) if at_end else _METRICS
        attempts = (path for name in names for path in sorted(self._run.glob(f"attempts/*/{name}")))
        for path in (*(self._run / name for name in _RECORD), *attempts):
            with suppress(FileNotFoundError):
                self._send(path)

    def _send(self, path: Path) -> None:
        status = path.stat()
        name, now = str(path.relative_to(self._run)), (status.st_mtime_ns, status.st_size)
        if self._sent.get(name) != now:
            self._store.put_file(f"{RUN}/{name}", path)
            self._sent[name] = now
