"""The flags that a `--help` text defines: argparse's, click's, typer's, absl's and their like."""

import re
from collections.abc import Iterator

HELP_SECONDS = 20
PARSER_VERSION = 4  # cached results of an older parser are ignored

_FLAG = r"--?(?:\[no-?\])?[A-Za-z0-9][\w-]*(?:\.[\w-]+)*"
_BRACKETS = r"(?:\{[^}]*\}|\[[^\]]*\]+|<[^>]*>+)(?:\.\.\.)?|\.\.\."
_CAPITALS = r"(?=[^a-z\s]*[A-Z])[A-Z0-9_%](?:[A-Z0-9_%.:-]|[/|,+*](?=\w))*(?!\w)"
_PLAINLY = r"(?:[a-z]\w* \[[^\]]*\.\.\.\]|\w+(?:\|\w+)+(?![/|,+*.:-]?\w))"  # `n [n ...]`, `a|b`, `N|all`
_VALUE = rf"(?:[ =](?:{_BRACKETS}|{_PLAINLY}|{_CAPITALS})|{_BRACKETS})+"
_WORDS = rf"[ =][A-Za-z](?:[\w:-]|[/|.](?=\w))*(?: (?:{_BRACKETS}))*"


def _names(option: str) -> re.Pattern[str]:
    # Atomic groups, so that a long line that does not match fails at once.
    return re.compile(rf"(?:-\w(?:{_VALUE})? )?(?>{option})(?:(?:[,;] ?| ?[/|] ?)(?>{option}))*")


_NAMES, _NAMES_WITH_WORDS = _names(rf"{_FLAG}(?:{_VALUE})?"), _names(rf"{_FLAG}(?:{_VALUE}|{_WORDS})?")
_BEFORE_HELP = re.compile(r"\s{2,}|:(?=\s|$)")
_LONG = re.compile(r"(?<![\w-])--(\[no-?\])?([\w.-]+)")

_HEADING = re.compile(r"\s*(?:[^\s-].*:|[A-Z][A-Z ]+|(?i:usage|(?:usage )?examples?)\b *(?::.*)?)$")
_NO_OPTIONS = re.compile(
    r"\W*(?:usage|synopsis|examples?|description|notes?|tips?|quick ?start)\b|.*\b(?:usage|examples?)\W*$",
    re.IGNORECASE,
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BOX_TOP = re.compile(r"\s*(?:[╭┌┏][─━]|\+-)[─━-]* (.*?) [─━+╮┐┓-]+$")
_BOX_NEGATION = re.compile(r"^( *--[\w-]+) +(--no-)")
_BOX_ROW = re.compile(r"(\s*)(?:[│┃](.*)[│┃]|\|(.*)\|)$")


def flags_in_help(text: str) -> frozenset[str]:
    """Flags that a `--help` text defines: at the start of a line among its options, not in prose or an example."""
    found = frozenset(_defined_flags(text))
    # Without any heading but that of the usage, the options follow the usage's paragraph.
    return found or frozenset(flag for part in re.split(r"\n\s*\n", text) for flag in _defined_flags(part))


def _defined_flags(text: str) -> Iterator[str]:
    lines = [_plain(line) for line in text.splitlines()]
    columns: set[int] = set()  # in which definitions start; a line further right is help text
    leftmost, closed = 0, False
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        indent = _indent(line)
        if _HEADING.match(line) and indent <= leftmost:
            columns, leftmost, closed = set(), indent, _NO_OPTIONS.match(line) is not None
        elif columns and indent == 0 and line and not before.strip() and not line.startswith("-"):
            closed = True  # a paragraph of prose below the options
        elif columns and indent == 0 < min(columns):
            continue  # an unindented line below indented options is prose, even if it begins with a flag
        elif not closed and (names := _definition(before, line, after, among=indent in columns)):
            if not columns or indent < leftmost:
                columns, leftmost = {indent}, indent
            if indent in columns:
                columns.add(indent + max(0, names.find("--")))  # `      --long` below `  -l, --long`
                yield from _long_flags(names)


def _plain(line: str) -> str:
    """The line without colours, tabs and the boxes that rich draws; a box's title becomes a heading."""
    line = _COLOUR.sub("", line).expandtabs().rstrip()
    if top := _BOX_TOP.match(line):
        return f"{top[1]}:"
    if row := _BOX_ROW.match(line):
        inside = f"{row[1]} {row[2] or row[3] or ''}".replace(" *  ", "    ", 1)
        return _BOX_NEGATION.sub(r"\1, \2", inside).rstrip()
    return line


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _definition(before: str, line: str, after: str, *, among: bool) -> str:
    """The flags that a line defines, with their values; `among` other definitions, a bare `--flag value` is one."""
    names, *help_text = _BEFORE_HELP.split(line.strip(), maxsplit=1)
    if not names.startswith("-") or "\\" in (before[-1:], line[-1:]):
        return ""
    colon = f"{names}:" in line
    explained = any(help_text) and not colon
    alone = _indent(line) > 0 and not _is_prose_above(before, line)
    if _NAMES.fullmatch(names):
        return names if explained or alone else ""
    sure = explained or (alone and (among or ", -" in names)) or _is_help_below(line, after)
    return names if sure and not colon and _NAMES_WITH_WORDS.fullmatch(names) else ""


def _is_prose_above(before: str, line: str) -> bool:
    is_text = before.strip() and not before.lstrip().startswith("-") and not _HEADING.match(before)
    return bool(is_text) and _indent(before) <= _indent(line)


def _is_help_below(line: str, after: str) -> bool:
    return _indent(after) > _indent(line) > 0 and not after.lstrip().startswith("-")


def _long_flags(names: str) -> Iterator[str]:
    for negation, name in _LONG.findall(names):
        yield f"--{name}"
        if negation:
            yield f"--{negation.strip('[]')}{name}"
