"""Finding the trainer, and the flags that it defines, from its help or its source."""

import ast
import re
from pathlib import Path

from dimba.contract import absolute
from dimba.host.facts import TrainerFacts

TRAINERS = {
    "sft": ("finetuning/finetune_sft.py", "finetuning/finetune_grpo.py", "finetuning/train.py", "train.py"),
    "grpo": ("finetuning/finetune_grpo.py", "finetuning/finetune_sft.py", "finetuning/train.py", "train.py"),
}
HELP_SECONDS = 20

_FLAG = r"--?[A-Za-z0-9][\w.-]*"
_METAVAR = r"(?:[ =](?:\{[^}]*\}|\[[^\]]*\](?: \.\.\.\])?|<[^>]*>|[A-Z0-9_.:|]+|\.\.\.))*"
_LOWER = r"(?:[ =][a-z][\w.:/-]*)?"
_OPTION = rf"{_FLAG}(?:{_METAVAR}|{_LOWER})"
_DEFINITION = re.compile(rf"^ {{1,10}}({_OPTION}(?:(?:, ?| / |/|\|){_OPTION})*)(?:\s{{2,}}\S.*|\s*)$")
_EXAMPLES = re.compile(r"^\s*(examples?|usage examples?|example usage)\b.*:?\s*$", re.IGNORECASE)
_HEADING = re.compile(r"^\S.*:\s*$")


def find_trainer(trainer: str | None, mode: str, folder: Path, project: Path) -> TrainerFacts:
    """The spec's trainer, else the first of the mode's that exists in `folder` or the project."""
    names = [trainer] if trainer else [f"scripts/{name}" for name in TRAINERS[mode]]
    for name in names:
        for root in (folder, project):
            path = absolute(name, root)
            if path.is_file():
                return TrainerFacts(path=path, other_mode=not trainer and name.endswith(_other(mode)))
    tried = ", ".join(f"`{name}`" for name in names)
    hint = "give the path of a training script, relative to the folder that dimba is run in"
    return TrainerFacts(path=None, problem=f"no trainer found: {tried}", hint=hint)


def _other(mode: str) -> str:
    return "finetune_grpo.py" if mode == "sft" else "finetune_sft.py"


def flags_in_help(text: str) -> frozenset[str]:
    """Flags that a `--help` text defines: at the start of an indented line, not in prose or an example."""
    flags: set[str] = set()
    examples = False
    for line in text.splitlines():
        if _EXAMPLES.match(line):
            examples = True
        elif _HEADING.match(line):
            examples = False
        match = None if examples else _DEFINITION.match(line)
        if match:
            flags.update(flag for flag in re.findall(rf"(?<![\w-]){_FLAG}", match[1]) if flag.startswith("--"))
    return frozenset(flags)


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
    """`flags_in_source` of a script and of the modules of the project's own that it takes its arguments from."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return frozenset()
    flags = flags_in_source(source)
    if "dimba.trainers.arguments" in source:
        arguments = Path(__file__).parents[1] / "trainers" / "arguments.py"
        flags |= flags_in_source(arguments.read_text(encoding="utf-8"))
    return flags
