"""samples.jsonl: sampled completions with their rewards, for people to read."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Sample = dict[str, Any]  # one line of the file


class SampleLog:
    """The completions of the first step, the last and every n-th between."""

    def __init__(self, path: Path, *, every: int) -> None:
        self._path, self._every = path, every
        self._has_written = False

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether the completions of this step belong in the file."""
        return step % self._every == 0 or step in (1, last_step)

    def write(self, step: int, samples: Iterable[Sample]) -> None:
        """Append the completions of a step; at first drop those of an earlier attempt from this step on."""
        if not self._has_written:
            self._drop_from(step)
        self._has_written = True
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)

    def _drop_from(self, step: int) -> None:
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8") as file:
            kept = [line for line in file if line.endswith("\n") and json.loads(line)["step"] < step]
        self._path.write_text("".join(kept), encoding="utf-8")
