"""What a check knows of its run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.gpu.results import Result

Found = Iterator[Result]


@dataclass(frozen=True)
class Context:
    """Where a check runs: the folder of its files, the device, and whether the models are tiny."""

    part: str
    check: str
    folder: Path
    device: str  # cuda or cpu
    tiny: bool

    def result(self, case: str, outcome: str, detail: str = "", **measured: object) -> Result:
        """A result of this check."""
        return Result(
            part=self.part, check=self.check, case=case, outcome=outcome, detail=detail, measured=dict(measured)
        )
