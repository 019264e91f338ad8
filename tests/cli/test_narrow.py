"""Commands on a narrow terminal or a pipe: lines break between words, and commands to copy stay whole."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from dimba.cli import prune, render
from dimba.cli.plan_page import show_plan
from dimba.cli.tokens import show_data
from dimba.cli.wrapping import asked_columns, wrapped
from dimba.commands.doctor import Check
from dimba.commands.prune import Leftover
from tests.commands.test_data import REPORT
from tests.plan.test_plan import plan


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe of 60 columns."""
    monkeypatch.setenv("COLUMNS", "60")


def too_wide(text: str, *, but: tuple[str, ...] = ()) -> list[str]:
    """Lines over 60 columns that could have been broken: they have more than a label and one word."""
    lines = [line for line in text.splitlines() if len(line) > 60 and not any(each in line for each in but)]
    return [line for line in lines if len(line.split()) > 2]


def test_a_plan_breaks_between_words_and_keeps_its_command_whole(narrow: None):
    stream = io.StringIO()
    found = plan("resources: {gpus: 2}")
    found = replace(found, notes=("a note with many words, " * 8,))
    show_plan(found, Console(file=stream, width=60, highlight=False))
    printed = stream.getvalue()
    assert too_wide(printed, but=("  command ",)) == [] and "\x1b" not in printed
    assert any(line.startswith("  command ") and len(line) > 60 for line in printed.splitlines())


def test_a_plan_on_a_pipe_of_no_width_has_a_line_for_each_note(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    stream = io.StringIO()
    note = "a note with many words, " * 8
    show_plan(replace(plan(), notes=(note,)), Console(file=stream, width=120, highlight=False))
    assert note.strip() in stream.getvalue()


def test_a_note_on_the_data_that_their_page_shows_is_not_in_the_plan_too():
    stream = io.StringIO()
    found = replace(plan(), notes=("data: columns not read: id", "another"))
    data = replace(found.data, notes=("not read, as empty: a.jsonl",))
    below = replace(REPORT, notes=("not read, as empty: a.jsonl", "columns not read: id"))
    console = Console(file=stream, width=120, highlight=False)
    show_plan(replace(found, data=replace(data, report=below)), console)
    assert "not read" not in stream.getvalue() and "another" in stream.getvalue()
    show_plan(replace(found, data=data), console)
    assert stream.getvalue().count("not read") == 2


def test_the_data_break_between_words_and_a_bar_keeps_its_count_beside_it(narrow: None):
    stream = io.StringIO()
    report = replace(REPORT, notes=("a note with many words, " * 8,))
    show_data(report, Console(file=stream, width=60, highlight=False))
    lines = stream.getvalue().splitlines()
    assert too_wide(stream.getvalue()) == []
    assert any("0 to 31" in line and line.endswith(" 400") for line in lines)


def test_the_doctor_breaks_its_findings_and_not_its_commands(narrow: None, capsys: pytest.CaptureFixture[str]):
    fix = "`sudo a --command that --somebody=copies --and --is longer --than --the terminal`"
    render.show_check(Check(name="disk", status="warning", detail="words " * 20, fix=fix))
    printed = capsys.readouterr().out
    assert too_wide(printed, but=("fix: ",)) == [] and fix in printed and printed.startswith("warning  disk: words")


def test_leftovers_have_two_lines_each_where_their_table_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    found = [
        Leftover(kind="image", name=f"dimba:{number:016}", place=str(number), size=2 << 30, age=90_000, why="old keys")
        for number in range(2)
    ]
    monkeypatch.setenv("COLUMNS", "60")
    prune._show(found)
    assert "image  dimba:0000000000000000\n  2.0 GiB, 1 d old: old keys\n" in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "100")
    prune._show(found)
    assert capsys.readouterr().out.split()[:5] == ["WHAT", "NAME", "SIZE", "AGE", "WHY"]


@pytest.mark.parametrize(("value", "columns"), [("60", 60), ("", 0), ("wide", 0), ("-1", 0)])
def test_columns_that_are_no_number_are_ignored(value: str, columns: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", value)
    assert asked_columns() == columns and render.output_console().width == (columns or 120)


def test_paths_stay_whole():
    path = "/a/very/long/path" * 5
    assert wrapped(f"  output    {path}, as user 1", indent=12, width=60)[1].strip().startswith(path)
