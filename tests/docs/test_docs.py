"""The documentation is short where it has to be, complete, and true to the command line, the spec and the files."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from dimba.cli import main
from dimba.spec import parse_spec
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
# `make docs` needs these pages too; a script writes them.
REFERENCE = [DOCS / "reference" / name for name in ("spec.md", "flags.md", "commands.md")]
PAGES = sorted(set(DOCS.rglob("*.md")) - set(REFERENCE))
TEXTS = [README, *(REPOSITORY / name for name in ("CONTRIBUTING.md", "docker/README.md")), *PAGES]
SCRIPTS = REPOSITORY / "scripts" / "finetuning" / "README.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SCRIPT = re.compile(r"(?<![\w./-])(?:scripts|jobs|docker|tests)/[\w./-]+\.(?:py|yaml|jsonl|txt)\b")
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
# A reader has to guess what these mean.
RIDDLES = re.compile(
    r"\b(somebody|nobody|whoever|anybody|someone|mend(?:s|ed)?|told|said|go(?:es)? on|went on|whole checkpoints?)\b"
)


class Block(NamedTuple):
    """A fenced block, and the line that its fence is on."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", read(page))


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, read(page).count("\n", 0, found.start()) + 1, found[2])
        for page in [*TEXTS, SCRIPTS]
        for found in FENCE.finditer(read(page))
        if found[1] in languages
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each simple command of a block; continued lines are one, comments and variables are dropped."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:\||&&|;)\s", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


class Parsed(Exception):
    """The arguments were read; the command must not run."""


def problem(words: list[str]) -> str:
    """What the `dimba` command line has against these words; nothing where it takes them."""
    errors: list[str] = []
    parse = argparse.ArgumentParser.parse_args

    def read_only(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse(self, *args, **kwargs)
        raise Parsed

    def refuse(self: argparse.ArgumentParser, message: str) -> None:
        errors.append(message)
        raise SystemExit(2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", read_only)
        patch.setattr(argparse.ArgumentParser, "error", refuse)
        try:
            main(words)
        except Parsed:
            return ""
        except SystemExit as left:
            return "; ".join(errors) if left.code else ""
    raise AssertionError("`dimba` did not read its arguments with argparse")


def dimba_commands() -> Iterator[tuple[Block, list[str]]]:
    for block in blocks("bash", "sh", "console"):
        for words in commands(block):
            if Path(words[0]).name == "dimba":
                yield block, words[1:]


def slugs(page: Path, *, on_github: bool) -> set[str]:
    """The anchors of a page's headings, as GitHub or as the site makes them."""
    found = set()
    for heading in HEADING.findall(prose(page)):
        text = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        found.add(text.replace(" ", "-") if on_github else re.sub(r"[-\s]+", "-", text))
    return found


def broken(page: Path, target: str) -> str:
    """Why a relative link leads nowhere; nothing where it does not."""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if file in REFERENCE:
        return ""
    if not file.is_relative_to(REPOSITORY) or not file.exists():
        return "no such file"
    if page.is_relative_to(DOCS) and not file.is_relative_to(DOCS):
        return "not a part of the site"
    if anchor and not (anchor in slugs(file, on_github=True) and anchor in slugs(file, on_github=False)):
        return "no such heading"
    return ""


def nav(items: Any) -> Iterator[str]:
    if isinstance(items, str):
        yield items
    for item in items.values() if isinstance(items, dict) else items if isinstance(items, list) else ():
        yield from nav(item)


def test_readme_has_at_most_150_lines():
    assert len(read(README).splitlines()) <= 150


def test_every_page_is_in_the_navigation_once_and_every_entry_is_a_page():
    listed = list(nav(yaml.safe_load(read(REPOSITORY / "mkdocs.yml"))["nav"]))
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in [*PAGES, *REFERENCE])


def test_index_links_to_every_page():
    linked = {target.partition("#")[0] for target in LINK.findall(read(DOCS / "index.md"))}
    pages = {page.relative_to(DOCS).as_posix() for page in [*PAGES, *REFERENCE]} - {"index.md"}
    assert pages <= linked, pages - linked


def test_every_page_has_one_title_and_states_its_limits_last():
    exempt = {"index.md", "limits.md", "getting-started.md"}
    for page in PAGES:
        headings = re.findall(r"^(#{1,2}) (.+)$", prose(page), re.MULTILINE)
        assert [level for level, _ in headings].count("#") == 1, name(page)
        assert page.name in exempt or headings[-1] == ("##", "Limits"), name(page)


@pytest.mark.parametrize("page", [*TEXTS, SCRIPTS], ids=name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path):
    targets = [target for target in LINK.findall(prose(page)) if not re.match(r"\w+:", target)]
    assert not {target: why for target in targets if (why := broken(page, target))}


def test_every_yaml_block_is_a_job_spec_or_a_part_of_one():
    """A part is completed with the keys that every spec has."""
    least = {
        "version": 1,
        "mode": "sft",
        "base_checkpoint": "checkpoints/base",
        "dataset": {"path": "data/rows.jsonl"},
        "method": "lora",
    }
    found = blocks("yaml")
    assert any("version:" in block.text for block in found)
    for block in found:
        given = yaml.safe_load(block.text)
        missing = {} if "version" in given else {key: value for key, value in least.items() if key not in given}
        text = block.text + "".join(yaml.safe_dump({key: value}) for key, value in missing.items())
        parse_spec(text.encode(), source=str(block))


def test_every_dimba_command_in_a_code_block_parses():
    found = list(dimba_commands())
    assert len(found) > 20
    assert not {f"{block}: dimba {shlex.join(words)}": why for block, words in found if (why := problem(words))}


def test_every_spec_that_a_page_validates_is_valid(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    found = [words for _, words in dimba_commands() if words[:1] == ["validate"]]
    assert found and not [words for words in found if main(words)]


def test_every_dimba_command_in_running_text_exists():
    """`dimba data` names a command without its arguments; its flags have to exist all the same."""
    named = {
        tuple(shlex.split(code)[1:])
        for page in [*TEXTS, SCRIPTS]
        for code in CODE.findall(prose(page))
        if re.match(r"(?:\.venv/bin/)?dimba [a-z-]", code)
    }
    assert ("prune",) in named
    for words in named:
        why = problem([*words]) and problem([*words, "WHAT"])
        assert not why, f"dimba {shlex.join(words)}: {why}"


def test_every_make_target_named_exists():
    targets = set(re.findall(r"^([a-z][\w-]*):", read(REPOSITORY / "Makefile"), re.MULTILINE))
    named = {
        (name(page), target)
        for page in [*TEXTS, SCRIPTS, REPOSITORY / "CHANGELOG.md"]
        for code in [*CODE.findall(prose(page)), *(block for _, block in FENCE.findall(read(page)))]
        for target in re.findall(r"(?:^|\s)make ([a-z][\w-]*)", code, re.MULTILINE)
    }
    assert ("README.md", "demo") in named
    assert not {each for each in named if each[1] not in targets}


def test_every_script_named_exists():
    named = {(name(page), path) for page in [*TEXTS, SCRIPTS] for path in SCRIPT.findall(read(page))}
    made_by_the_reader = {"jobs/mine.yaml", "jobs/first.yaml", "scripts/my_trainer.py"}
    trainers_looked_for = {"scripts/train.py", "scripts/finetuning/train.py"}
    missing = {each for each in named if not (REPOSITORY / each[1]).exists()}
    assert not {each for each in missing if each[1] not in made_by_the_reader | trainers_looked_for}


@pytest.mark.parametrize("page", [*TEXTS, SCRIPTS], ids=name)
def test_documentation_uses_plain_words(page: Path):
    assert not RIDDLES.findall(prose(page))
