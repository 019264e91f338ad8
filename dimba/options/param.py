"""A parameter as a value, dataclass fields that hold one, and the argparse parser that reads them."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from dimba.options.kinds import Kind, OneOf, Switch, Text

GROUPS = ("base and data", "method", "optimisation", "rows", "speed", "sampling", "reward", "run")  # of `--help`
_PARAM = "param"
_LONGEST_METAVAR = 40  # columns
_TEXT = Text()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Param:
    """One parameter of a job.

    `key` is its place in the spec; a parameter without one is set in `trainer_args`. `flags` are the flags of dimba's
    own trainers and of the wizard, `aliases` those by which custom trainers are searched, first match wins. `question`
    is its label in the wizard.
    """

    help: str
    key: str = ""
    kind: Kind = _TEXT
    default: Any = None
    flags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    several: bool = False
    question: str = ""
    group: str = GROUPS[-1]

    @property
    def flag(self) -> str:
        """The flag that documentation and messages name."""
        return self.flags[0]

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it accepts; none if it takes other values too."""
        return self.kind.words if isinstance(self.kind, OneOf) else ()

    @property
    def metavar_of_words(self) -> str:
        """The words as `a|b`; `NAME` if they would break a narrow terminal's lines, and `help_of_words` lists them."""
        joined = "|".join(self.words)
        return joined if len(joined) <= _LONGEST_METAVAR else "NAME"

    @property
    def help_of_words(self) -> str:
        """The help, with the words that `metavar_of_words` leaves out."""
        listed = f" ({', '.join(self.words)})" if self.metavar_of_words == "NAME" else ""
        return self.help + listed

    @property
    def name(self) -> str:
        """Its name in `trainer_args`: the flag without dashes."""
        return self.flag.removeprefix("--")

    @property
    def spellings(self) -> tuple[str, ...]:
        """The aliases in order, then the same with underscores, as many trainers spell them."""
        underscored = (f"--{alias[2:].replace('-', '_')}" for alias in self.aliases)
        return (*self.aliases, *(each for each in underscored if each not in self.aliases))

    def add_to(self, group: argparse._ArgumentGroup, dest: str, *, required: bool, default: Any) -> None:
        """Add the flag to a group of an argparse parser."""
        if isinstance(self.kind, Switch):
            group.add_argument(*self.flags, dest=dest, action="store_true", help=self.help)
            return
        kind = {"choices": self.kind.words} if isinstance(self.kind, OneOf) else {"type": self.kind}
        count = {"nargs": "+"} if self.several else {}
        metavar = self.metavar or ("NAME" if self.metavar_of_words == "NAME" else None)
        about = {"dest": dest, "required": required, "default": default, "metavar": metavar, "help": self.help_of_words}
        group.add_argument(*self.flags, **about, **kind, **count)  # type: ignore[arg-type]


def option(param: Param, **changes: Any) -> Any:
    """Declare a dataclass field that holds `param`; `changes` are an objective's own default or help.

    A parameter without a default that is not optional is required: give `required=True`.
    """
    required = changes.pop("required", False)
    changed = dataclasses.replace(param, **changes)
    if required:
        return dataclasses.field(metadata={_PARAM: changed})
    if isinstance(changed.default, list):
        return dataclasses.field(default_factory=lambda: tuple(changed.default), metadata={_PARAM: changed})
    default = False if isinstance(changed.kind, Switch) else changed.default
    return dataclasses.field(default=default, metadata={_PARAM: changed})


def params(options: type) -> dict[str, Param]:
    """The parameters of an options dataclass, by field name."""
    return {field.name: field.metadata[_PARAM] for field in dataclasses.fields(options) if _PARAM in field.metadata}


def flags_of(options: type) -> frozenset[str]:
    """Every flag that a trainer with these options takes."""
    return frozenset(flag for param in params(options).values() for flag in param.flags)


def parser_of(options: type, description: str) -> argparse.ArgumentParser:
    """An argparse parser with a flag for each parameter, by group."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for field, param in _fields(options):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None if required else _default(field)
        param.add_to(groups[param.group], field.name, required=required, default=default)
    return parser


def _fields(options: type) -> Iterator[tuple[dataclasses.Field[Any], Param]]:
    for field in dataclasses.fields(options):
        if _PARAM in field.metadata:
            yield field, field.metadata[_PARAM]


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


Options = TypeVar("Options")


def parse(options: type[Options], parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> Options:
    """The options of a command line, frozen; argparse exits with 2 on a mistake."""
    values = vars(parser.parse_args(argv))
    return options(**{name: tuple(each) if isinstance(each, list) else each for name, each in values.items()})
