"""The errors that a user can cause: one small tree, in which each kind carries its exit status."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

CORRECT = "correct the row or remove it"


def printable(text: str) -> str:
    """The text with `?` for characters that a terminal would obey, as data may contain them."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


class Location(NamedTuple):
    """A place in a file: a line of text, or a row of an array or a table; both are counted from 1."""

    file: str = ""
    line: int | None = None
    row: int | None = None

    def __str__(self) -> str:
        number = self.line or self.row
        return f"{self.prefix}{number}" if number else self.file

    @property
    def prefix(self) -> str:
        """The text in front of the number: `file:` or `file: row `."""
        return f"{self.file}:" if self.line else f"{self.file}: row "


class DimbaError(Exception):
    """A failure: its cause in one clause, where it lies, and in `hint` one action that resolves it.

    `key` is a key of the spec or a trainer's flag; `column` is a column of the data, or a value in it as
    `messages[2].content`. With a `column`, the cause is a predicate of it: "is null, expected text".
    """

    exit_status: ClassVar[int] = 1

    def __init__(
        self,
        cause: str,
        hint: str = "",
        *,
        key: str = "",
        column: str = "",
        file: str | Path = "",
        line: int | None = None,
    ) -> None:
        super().__init__(cause)
        self.cause = printable(cause)
        self.hint = hint
        self.key = key
        self.column = column
        self.location = Location(str(file), line)

    def __str__(self) -> str:
        return in_words(self)

    @property
    def file(self) -> str:
        """The file that the error is in; empty where it is in none."""
        return self.location.file

    @property
    def line(self) -> int | None:
        """The line of the file, counted from 1."""
        return self.location.line

    @property
    def row(self) -> int | None:
        """The row of a file that has no lines, counted from 1."""
        return self.location.row

    @property
    def finding(self) -> str:
        """The cause, with the column that it is about."""
        return printable(f"`{self.column}` {self.cause}") if self.column else self.cause

    @property
    def detail(self) -> str:
        """`file:line: cause`, for an error that reports this one under a key of its own."""
        return ": ".join(filter(None, (printable(str(self.location)), self.finding)))

    @property
    def message(self) -> str:
        """`file:line: key: cause`, without the parts that the error does not have."""
        return ": ".join(filter(None, (printable(str(self.location)), printable(self.key), self.finding)))

    def at(self, location: Location) -> Self:
        """This error, placed at `location`."""
        self.location = location
        return self

    def as_json(self) -> dict[str, Any]:
        """The fields that `from_json` reads on the other side of the container wall."""
        return {
            "cause": self.cause,
            "hint": self.hint,
            "status": self.exit_status,
            "key": self.key,
            "column": self.column,
            "location": self.location._asdict(),
        }


def in_words(error: DimbaError) -> str:
    """The error as commands, trainers and logs print it: `file:line: key: cause`, a blank line, `hint: …`."""
    return f"{error.message}\n\nhint: {error.hint}" if error.hint else error.message


def first_line(error: object) -> str:
    """The first line of an error's text; the name of its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def kind_and_line(error: BaseException) -> str:
    """The class of an error and the first line of its text."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


class RunFailed(DimbaError):
    """The run started and failed, or was stopped elsewhere; `reason` is the exit reason where it is known."""

    exit_status = 1

    def __init__(self, cause: str, hint: str = "", reason: str | None = None) -> None:
        super().__init__(cause, hint)
        self.reason = reason


class BadInput(DimbaError):
    """The spec, the command line or a file that they name is wrong."""

    exit_status = 2


class UnusableRow(BadInput):
    """A row of data that cannot be trained on."""

    def __init__(self, cause: str, hint: str = CORRECT, *, column: str = "") -> None:
        super().__init__(cause, hint, column=column)


class HostCannot(DimbaError):
    """The machine lacks what the job needs: GPUs, permissions, disk."""

    exit_status = 3


class EngineFailed(DimbaError):
    """The container engine or the image build failed."""

    exit_status = 4


class Interrupted(DimbaError):
    """The user pressed Ctrl-C, or the launcher received a signal to end."""

    exit_status = 130


class SeveralErrors(DimbaError):
    """All errors found at once; the exit status is that of the first."""

    def __init__(self, errors: Sequence[DimbaError]) -> None:
        super().__init__(f"{len(errors)} errors")
        self.errors = tuple(errors)
        self.exit_status = errors[0].exit_status  # type: ignore[misc]  # one instance stands for many kinds

    @property
    def message(self) -> str:
        """The words of every error, a blank line between them."""
        return "\n\n".join(map(in_words, self.errors))


def from_json(value: Mapping[str, Any]) -> DimbaError:
    """The error that a process in the container wrote with `as_json`; an older one wrote a `message` alone."""
    cause = value.get("cause") or value.get("message") or ""
    hint, key, column = (str(value.get(name) or "") for name in ("hint", "key", "column"))
    if value.get("status") == RunFailed.exit_status:
        return RunFailed(str(cause), hint)
    kind = HostCannot if value.get("status") == HostCannot.exit_status else BadInput
    error = kind(str(cause), hint, key=key, column=column)
    return error.at(Location(**value.get("location", {})))


def raise_all(errors: Sequence[DimbaError]) -> None:
    """Raises the one error, or all of them as one with the spec's own mistakes first; returns where there is none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(sorted(errors, key=lambda error: error.exit_status))
