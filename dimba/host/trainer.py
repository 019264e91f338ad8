"""Finding the trainer, and the flags that it defines, from its help or its source."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dimba.contract import absolute
from dimba.host.facts import TrainerFacts

# The mode's own first; the other mode's last, as it is launched only where it has a mode flag.
TRAINERS = {
    "sft": ("finetuning/finetune_sft.py", "finetuning/train.py", "train.py", "finetuning/finetune_grpo.py"),
    "grpo": ("finetuning/finetune_grpo.py", "finetuning/train.py", "train.py", "finetuning/finetune_sft.py"),
}
HELP_SECONDS = 20
PARSER_VERSION = 2  # what an older parser found in a help text is not believed

_FLAG = r"--?(?:\[no-?\])?[A-Za-z0-9][\w-]*(?:\.[\w-]+)*"
_BRACKETS = r"(?:\{[^}]*\}|\[[^\]]*\]+|<[^>]*>+)(?:\.\.\.)?|\.\.\."
_CAPITALS = r"(?=[^a-z\s]*[A-Z])[A-Z0-9_%](?:[A-Z0-9_%.:-]|[/|,+*](?=\w))*(?!\w)"
_PLAINLY = r"[a-z]\w*(?: \[[^\]]*\.\.\.\]|(?:\|\w+)+)"  # `n [n ...]`, `a|b`
_VALUE = rf"(?:[ =](?:{_BRACKETS}|{_CAPITALS}|{_PLAINLY})|{_BRACKETS})+"
_WORDS = rf"[ =][A-Za-z](?:[\w:-]|[/|.](?=\w))*(?: (?:{_BRACKETS}))*"


def _names(option: str) -> re.Pattern[str]:
    # Atomic, so that a line that does not match is given up at once, however long.
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


def find_trainer(trainer: str | None, mode: str, folder: Path, project: Path) -> TrainerFacts:
    """The spec's trainer, else the first of the mode's that exists in `folder` or the project."""
    names = [trainer] if trainer else _usual_names(mode)
    if found := _existing(names, mode, folder, project):
        return found[0][1]
    tried = ", ".join(f"`{name}`" for name in names)
    hint = "give the path of a training script, relative to the folder that dimba is run in"
    return TrainerFacts(path=None, problem=f"no trainer found: {tried}", hint=hint)


def find_trainers(mode: str, folder: Path, project: Path) -> list[tuple[str, TrainerFacts]]:
    """Every usual trainer that exists, by its relative name, in the order to offer them: the other mode's last."""
    return _existing(_usual_names(mode), mode, folder, project)


def _usual_names(mode: str) -> list[str]:
    return [f"scripts/{name}" for name in TRAINERS[mode]]


def _existing(names: Sequence[str], mode: str, folder: Path, project: Path) -> list[tuple[str, TrainerFacts]]:
    other = Path(_usual_names(mode)[-1]).parts
    found = []
    for name in names:
        paths = [path for root in (folder, project) if (path := absolute(name, root)).is_file()]
        if paths:
            # Naming it does not make it train what the mode says.
            found.append((name, TrainerFacts(path=paths[0], other_mode=paths[0].parts[-len(other) :] == other)))
    return found


def flags_in_help(text: str) -> frozenset[str]:
    """Flags that a `--help` text defines: at the start of a line among its options, not in prose or an example."""
    found = frozenset(_defined(text))
    # Without any heading but that of the usage, what comes after the usage's paragraph are the options.
    return found or frozenset(flag for part in re.split(r"\n\s*\n", text) for flag in _defined(part))


def _defined(text: str) -> Iterator[str]:
    lines = [_plain(line) for line in text.splitlines()]
    columns: set[int] = set()  # where definitions start; what starts further right is their help
    leftmost, closed = 0, False
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        indent = _indent(line)
        if _HEADING.match(line) and indent <= leftmost:
            columns, leftmost, closed = set(), indent, _NO_OPTIONS.match(line) is not None
        elif not closed and (names := _definition(before, line, after, among=indent in columns)):
            if not columns or indent < leftmost:
                columns, leftmost = {indent}, indent
            if indent in columns:
                columns.add(indent + max(0, names.find("--")))  # `      --long` below `  -l, --long`
                yield from _long_flags(names)


def _plain(line: str) -> str:
    """The line without colours, tabs, and the boxes that rich draws; a box's title becomes a heading."""
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
    """The flags, with their values, that a line defines, if it does; `among` others, a bare `--flag value` does."""
    names, *help_text = _BEFORE_HELP.split(line.strip(), maxsplit=1)
    if not names.startswith("-") or "\\" in (before[-1:], line[-1:]):
        return ""
    colon = f"{names}:" in line
    told = any(help_text) and not colon
    alone = _indent(line) > 0 and not _is_prose_above(before, line)
    if _NAMES.fullmatch(names):
        return names if told or alone else ""
    sure = told or (alone and (among or ", -" in names)) or _is_help_below(line, after)
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


def flags_in_source(source: str) -> frozenset[str]:
    """Flags in a script's calls, as `add_argument("--x")` or `option("--x/--no-x")`, and in lists to loop over."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    places = (
        node.args if isinstance(node, ast.Call) else node.elts
        for node in ast.walk(tree)
        if isinstance(node, ast.Call | ast.Tuple | ast.List)
    )
    strings = (
        each.value
        for place in places
        for each in place
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    )
    parts = (part.strip() for text in strings if text.startswith("-") for part in text.split("/"))
    return frozenset(part for part in parts if re.fullmatch(_FLAG, part) and part.startswith("--"))


def flags_in_file(path: Path) -> frozenset[str]:
    """`flags_in_source` of a script and of the functions of the project's own that it takes its arguments from."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return frozenset()
    arguments = Path(__file__).parents[1] / "trainers" / "arguments.py"
    return flags_in_source(source) | flags_in_source(_functions(arguments, _imported(source)))


def _imported(source: str) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return [each.name for node in imports if node.module == "dimba.trainers.arguments" for each in node.names]


def _functions(module: Path, names: list[str]) -> str:
    """The source of the module's functions of these names, and of those that they use."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    todo, used = list(names), dict[str, str]()
    while todo:
        name = todo.pop()
        if name in functions and name not in used:
            used[name] = ast.unparse(functions[name])
            todo += [node.id for node in ast.walk(functions[name]) if isinstance(node, ast.Name)]
    return "\n".join(used.values())
