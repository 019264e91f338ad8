"""`dimba data`: its report, its page of text, and the launches that it refuses."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dimba.cli import main
from dimba.cli.tokens import show_data
from dimba.dataset.token_report import Bar, DataReport, Part, Shown, UnusableRowReport
from tests.conftest import NO_ENGINE, QUESTIONS, SPEC, Dimba, write_rows

PARTS = (Part(text="<|user|>\nWhat?<|end|>\n<|assistant|>\n", trained=False), Part(text="That.<|end|>", trained=True))
REPORT = DataReport(
    format="prompt/response",
    columns={"prompt": "ask", "response": "response"},
    rows=1000,
    unusable=7,
    bad=(UnusableRowReport(where="data.jsonl:5", why="not valid JSON"),),
    tokens=50_000,
    trained_tokens=20_000,
    max_length=64,
    on_long=None,
    long_rows=12,
    cut_tokens=900,
    cut_trained_tokens=400,
    left_out=2,
    examples=991,
    validation=0,
    median=40,
    longest=200,
    lengths=(Bar(below=32, rows=400), Bar(below=65, rows=581), Bar(below=None, rows=12)),
    shown=(Shown(where="data.jsonl:1", tokens=12, parts=PARTS),),
)


def page(report: DataReport, **options: object) -> str:
    stream = io.StringIO()
    show_data(report, Console(file=stream, width=80, highlight=False, **options))
    return stream.getvalue()


def test_the_page_reports_trained_tokens_and_cut_rows():
    text = page(REPORT)
    assert "ask" in text and "1,000, of which 7 are unusable" in text
    assert text.count("data.jsonl:5: not valid JSON") == 1
    assert "50,000, 20,000 of them trained (40%)" in text
    cut = "12 rows are longer than max_length 64: cut, by 400 trained tokens; 2 have nothing trained"
    assert cut in " ".join(text.split())
    assert "65 and more" in text and "[[That.<|end|>]]" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_rows_that_prevent_a_launch_are_listed_once_within_the_width():
    why = "not valid JSON, as it contains a number of words that are not within quotation marks"
    text = page(
        replace(REPORT, bad=(UnusableRowReport(where="data.jsonl:5", why=why),), problem=f"data.jsonl:5: {why}")
    )
    assert text.count("data.jsonl:5: ") == 1 and all(len(line) <= 80 for line in text.splitlines())
    assert f"a launch would refuse this data: data.jsonl:5: {why}" in " ".join(text.split())


def test_colour_replaces_brackets():
    text = page(REPORT, force_terminal=True, color_system="standard")
    assert "\x1b[32mThat.<|end|>" in text and "[[" not in text


def test_brackets_that_occur_in_the_text_are_not_used_as_marks():
    parts = (Part(text="a [[b]]", trained=False), Part(text="c }}", trained=True))
    text = page(replace(REPORT, shown=(Shown(where="x", tokens=1, parts=parts),)))
    assert "trained in << >>" in text and "a [[b]]<<c }}>>" in text


@pytest.mark.parametrize(("cut", "note"), [(0, ""), (21, "; 21 tokens are in no piece with a trained one")])
def test_the_tokens_that_a_split_loses_are_reported(cut: int, note: str):
    fate = replace(REPORT, on_long="split", cut_tokens=cut).long_rows_outcome()
    assert fate == f"split; every trained token is kept, later pieces do not see what came before{note}"


def test_control_characters_of_the_data_do_not_reach_the_terminal():
    parts = (Part(text="\x1b]0;owned\x07 [red]x", trained=True),)
    text = page(replace(REPORT, shown=(Shown(where="x", tokens=1, parts=parts),)))
    assert "\x1b" not in text and "\x07" not in text and "[red]x" in text


def test_a_report_survives_json():
    assert DataReport.from_json({**json.loads(json.dumps(REPORT.as_json())), "newer": 1}) == REPORT


@pytest.mark.proof
def test_data_reports_the_rows_and_tokens_that_the_trainer_will_see(tiny_job: Path, dimba: Dimba):
    write_rows(tiny_job / "data.jsonl", [*QUESTIONS, {"question": "Q", "answer": None}])
    done = dimba("data", "job.yaml", "--json", cwd=tiny_job, **NO_ENGINE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["format"], found["rows"], found["unusable"]) == ("question/answer", 13, 1)
    assert found["bad"][0]["where"].endswith("data.jsonl:13") and "null" in found["bad"][0]["why"]
    trained = "".join(part["text"] for part in found["shown"][0]["parts"] if part["trained"])
    assert trained == "It is 0.<|end|>"
    assert found["tokens"] > found["trained_tokens"] > 12

    refused = dimba("plan", "job.yaml", cwd=tiny_job, **NO_ENGINE)
    assert refused.returncode == 2 and "data.jsonl:13" in refused.stderr and "skip-bad-rows" in refused.stderr
    skipping = ("--set", "trainer_args.skip-bad-rows=true")
    plan = dimba("plan", "job.yaml", "--json", *skipping, cwd=tiny_job, **NO_ENGINE)
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["data"]["report"]["examples"] == 12
    assert "shown" not in json.loads(plan.stdout)["data"]["report"]


@pytest.mark.proof
def test_a_job_that_would_cut_much_of_its_data_is_refused_without_on_long(tiny_job: Path, dimba: Dimba):
    write_rows(tiny_job / "data.jsonl", [*QUESTIONS, {"question": "Q", "answer": "word " * 400}])
    refused = dimba("launch", "job.yaml", cwd=tiny_job, **NO_ENGINE)
    assert refused.returncode == 2 and "--on-long" in refused.stderr and "of the trained tokens" in refused.stderr
    assert "step 1" not in refused.stdout and "--on-long" not in refused.stdout
    (run,) = json.loads(dimba("ps", "-a", "--json", cwd=tiny_job).stdout)
    assert (run["status"], run["exit_reason"], run["exit_code"]) == ("failed", "start_failed", 2)
    assert refused.stderr.splitlines()[-1] in dimba("logs", run["id"], cwd=tiny_job).stdout
    plan = dimba("plan", "job.yaml", "--set", "trainer_args.on-long=split", cwd=tiny_job, **NO_ENGINE)
    assert plan.returncode == 0, plan.stderr
    assert "split; every trained token is kept" in " ".join(plan.stdout.split())


@pytest.mark.proof
def test_a_remembered_report_refuses_a_launch_before_it_starts(tiny_job: Path, dimba: Dimba):
    write_rows(tiny_job / "data.jsonl", [{"question": "Q", "answer": "word " * 400}])
    first = dimba("data", "job.yaml", cwd=tiny_job, **NO_ENGINE)
    assert first.returncode == 0 and "a launch would refuse this data" in first.stdout
    refused = dimba("launch", "job.yaml", cwd=tiny_job, **NO_ENGINE)
    assert refused.returncode == 2 and "job.yaml:" in refused.stderr
    assert not (tiny_job / "runs").exists()


@pytest.mark.proof
def test_data_executes_nothing_of_an_untrusted_spec(tiny_job: Path, new_dimba: Dimba):
    (tiny_job / "lib").mkdir()
    for name in ("mine.py", "numpy.py", "lib/sitecustomize.py"):
        (tiny_job / name).write_text("open('executed', 'w')\n", encoding="utf-8")
    with (tiny_job / "job.yaml").open("a", encoding="utf-8") as file:
        file.write(f"trainer: mine.py\ncontainer: {{env: ['PYTHONPATH={tiny_job}/lib']}}\n")
    done = new_dimba("data", "job.yaml", cwd=tiny_job, **NO_ENGINE)
    assert done.returncode == 0 and "may read the data differently" in " ".join(done.stdout.split())
    assert not (tiny_job / "executed").exists()


def test_the_error_for_data_that_cannot_be_read_names_the_cause(job: Path, dimba: Dimba):
    done = dimba("data", "job.yaml", cwd=job, **NO_ENGINE)
    assert done.returncode == 2 and "no tokenizer.json" in done.stderr and "hint: " in done.stderr
    (job / "data.jsonl").unlink()
    done = dimba("data", "job.yaml", cwd=job, **NO_ENGINE)
    assert done.returncode == 2 and "job.yaml:" in done.stderr and "does not exist" in done.stderr


@pytest.mark.parametrize("command", ["data", "plan", "launch"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("on-long", "cut", "choose from"),
        ("packing", "maybe", "choose from"),
        ("validation-split", "-1", "neither a share"),
        ("validation-split", "true", "expected one argument"),
        ("eval-steps", "0", "less than 1"),
        ("skip-bad-rows", "5", "takes no value"),
        ("skip-bad-row", "true", "did you mean `skip-bad-rows`"),
        ("max-length", "64", "set `training.max_length`"),
    ],
)
def test_an_invalid_option_of_dimbas_own_trainer_is_reported_with_its_line(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, key: str, value: str,
    message: str,
):  # fmt: skip
    (job / "base/tokenizer.json").write_text("{}", encoding="utf-8")
    (job / "job.yaml").write_text(f"{SPEC}runner: process\ntrainer_args:\n  {key}: {value}\n", encoding="utf-8")
    monkeypatch.chdir(job)
    assert main([command, "job.yaml"]) == 2
    assert f"job.yaml:11: trainer_args.{key}: " in (err := capsys.readouterr().err) and message in err
    assert not (job / "runs").exists()


@pytest.mark.proof
def test_a_refusal_names_the_line_of_its_key_also_as_json_and_is_remembered(tiny_job: Path, dimba: Dimba):
    text = (tiny_job / "job.yaml").read_text(encoding="utf-8")
    named = text.replace("{path: data.jsonl}", "\n  path: data.jsonl\n  columns: {question: asked}")
    (tiny_job / "job.yaml").write_text(named, encoding="utf-8")
    done = dimba("data", "job.yaml", "--json", cwd=tiny_job, **NO_ENGINE)
    assert done.returncode == 2 and "job.yaml:6: dataset.columns.question: " in done.stderr
    refusal = json.loads(done.stdout)
    assert "no column `asked`" in refusal["error"] and "the columns are: answer, question" in refusal["hint"]
    # The second cache is unusable: the refusal comes from memory.
    again = dimba("data", "job.yaml", "--json", cwd=tiny_job, **NO_ENGINE, HF_HOME="/dev/null/none")
    assert (again.returncode, again.stdout) == (2, done.stdout)
    plan = dimba("plan", "job.yaml", cwd=tiny_job, **NO_ENGINE)
    assert plan.returncode == 2 and "job.yaml:6: dataset.columns.question: " in plan.stderr
