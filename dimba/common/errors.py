"""What a user can run into: one small tree, in which each kind carries its exit status."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

CORRECT = "correct the row or remove it"


def printable(text: str) -> str:
    """Without characters that a terminal would obey: they may come from data."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


class DimbaError(Exception):
    """A failure with a cause and, after it, what to do next."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message

    def as_json(self) -> dict[str, Any]:
        """What `from_json` makes the same refusal of, on the other side of the container wall."""
        return {"message": self.message, "hint": self.hint, "status": self.exit_status}


class RunFailed(DimbaError):
    """The run started and failed, or was stopped elsewhere; `reason` is the exit reason where it is known."""

    exit_status = 1

    def __init__(self, message: str, hint: str = "", reason: str | None = None) -> None:
        super().__init__(message, hint)
        self.reason = reason


class BadInput(DimbaError):
    """The spec, the command line or what they name is wrong."""

    exit_status = 2


class BadRow(BadInput):
    """A row of data that cannot be used: `where` is its file and line, `why` what is wrong with it."""

    def __init__(self, where: str, why: str, hint: str = CORRECT) -> None:
        super().__init__(f"{where}: {why}", hint)
        self.where, self.why = printable(where), printable(why)


class HostCannot(DimbaError):
    """The machine cannot do it: GPUs, permissions, disk."""

    exit_status = 3


class EngineFailed(DimbaError):
    """The container engine or the image build failed."""

    exit_status = 4


class Interrupted(DimbaError):
    """Somebody pressed Ctrl-C, or the launcher was told to end."""

    exit_status = 130


def from_json(value: Mapping[str, Any]) -> DimbaError:
    """A refusal in the words, and with the exit status, that a process of ours gave it."""
    kind = HostCannot if value.get("status") == HostCannot.exit_status else BadInput
    return kind(str(value.get("message")), str(value.get("hint")))


class SeveralErrors(DimbaError):
    """Everything that is wrong at once; the exit status is that of the first."""

    def __init__(self, errors: Sequence[DimbaError]) -> None:
        super().__init__("\n\n".join(str(error) for error in errors))
        self.errors = tuple(errors)
        self.exit_status = errors[0].exit_status  # type: ignore[misc]  # one instance stands for many kinds


def raise_all(errors: Sequence[DimbaError]) -> None:
    """Raises nothing, the one error, or all of them as one, the spec's own mistakes first."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(sorted(errors, key=lambda error: error.exit_status))
