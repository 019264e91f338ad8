"""What a check knows of its run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.gpu.results import ABSENT, Result, read

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

    def answers(self) -> list[Result]:
        """The results of this check so far, of an earlier call too."""
        found = (each for each in read(self.folder) if (each.part, each.check) == (self.part, self.check))
        return [each for each in found if each.outcome != ABSENT]
