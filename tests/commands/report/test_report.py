"""`dimba report`: what the file says, what it refuses, and that strangers' texts stay texts."""

import json
import os
import re
import stat
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dimba.commands.report import write_report
from dimba.commands.report.page import embedded, short_labels
from tests.commands.report.runs import EVIL, curve, write_lines, write_run
from tests.conftest import Dimba


class Page(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.marked: list[str] = []
        self._in = ""
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in not in ("script", "style"):
            self.words.append(data)
        if self._in == "mark":
            self.marked.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def drawings(self) -> list[dict[str, object]]:
        found = re.search(r'<script type="application/json" id="drawings">(.*?)</script>', self.html, re.DOTALL)
        assert found
        value: list[dict[str, object]] = json.loads(found[1])
        return value


def test_the_report_lies_in_the_runs_folder_and_its_path_is_printed(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 30, evaluated=10)])
    done = dimba("report", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run.path / 'report.html'}\n"
    page = Page(run.path / "report.html")
    assert [each["name"] for each in page.drawings] == ["loss", "rate", "speed", "gradient"]
    for text in (
        "succeeded",
        "completed",
        "0123abcd",
        "sha256:d19e57",
        "sha256:ba5e",
        "lock-hash",
        "dimba launch job.yaml",
    ):
        assert text in page.text
    assert "base_checkpoint: base" in page.text and "the last line of the log" in page.text
    assert not list(run.path.glob(".*.part"))


def test_the_file_loads_nothing(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 5)])
    dimba("report", "first", cwd=tmp_path)
    page = Page(run.path / "report.html")
    links = [value for _tag, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert links and all(str(link).startswith("#") for link in links)
    [policy] = [attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    assert str(policy).startswith("default-src 'none'")


def test_several_runs_are_compared_in_the_current_folder_with_the_differences_of_their_specs(
    tmp_path: Path, dimba: Dimba
):
    for n, rate in (("first-1", 1e-4), ("second-2", 3e-4)):
        write_run(tmp_path / "runs", n, attempts=[curve(1, 20, evaluated=10)], rate=rate)
    done = dimba("report", "first-1", "second-2", "first-1", cwd=tmp_path)
    assert done.stdout == f"{tmp_path / 'report.html'}\n", done.stderr
    page = Page(tmp_path / "report.html")
    loss = page.drawings[0]
    names = [curve["name"] for curve in loss["curves"]]  # type: ignore[attr-defined]
    assert names == ["first-1", "first-1, validation", "second-2", "second-2, validation"]
    assert "training.learning_rate 0.0001 0.0003" in page.text
    assert "base_checkpoint base" not in page.text.partition("How they ended")[0]


def test_a_spec_that_this_version_cannot_read_is_named_and_the_others_are_compared(tmp_path: Path, dimba: Dimba):
    for name, rate in (("first-1", 1e-4), ("second-2", 3e-4), ("third-3", 1e-4)):
        run = write_run(tmp_path / "runs", name, rate=rate)
    (run.path / "job.yaml").write_text("version: 99\nfuture: true\n", encoding="utf-8")
    assert dimba("report", "first-1", "second-2", "third-3", cwd=tmp_path).returncode == 0
    text = Page(tmp_path / "report.html").text
    assert "cannot read the spec of third-3" in text and "training.learning_rate 0.0001 0.0003 –" in text
    assert "future: true" in text


def test_an_active_run_has_a_report_so_far(tmp_path: Path, dimba: Dimba):
    active = {"status": "running", "host": "another", "boot": "another", "ended": None, "exit_reason": None}
    run = write_run(tmp_path / "runs", attempts=[curve(1, 30, total=100)], **active)
    assert dimba("report", "first", cwd=tmp_path).returncode == 0
    text = Page(run.path / "report.html").text
    assert "status running" in text and "30 of 100" in text


def test_a_run_without_metrics_has_a_report_without_charts_and_scripts(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[[]], status="failed", exit_reason="start_failed", learned=None)
    assert dimba("report", "first", cwd=tmp_path).returncode == 0
    page = Page(run.path / "report.html")
    assert "start_failed" in page.text and "Curves" not in page.text
    assert not [tag for tag, _ in page.tags if tag in ("script", "figure")]
    assert len(page.html) < 50_000


def test_an_evaluation_is_shown_unless_the_run_has_continued_since(tmp_path: Path, dimba: Dimba):
    measure = {"better": True, "model": 1.2, "against": 1.4, "difference": -0.2, "interval": [-0.25, -0.15], "p": 0.001}
    found = {"verdict": "better than its base: by much", "measures": {"loss": measure, "broken": {"better": 1}}}
    found["measures"] |= {"mine bleu": {**measure, "better": None, "interval": None, "p": None}}
    (tmp_path / "out").mkdir()
    run = write_run(tmp_path / "runs")
    for made, shown in (("2026-11-29T11:00:00+00:00", True), ("2026-11-29T09:00:00+00:00", False)):
        (tmp_path / "out" / "eval.json").write_text(json.dumps({**found, "time": made}), encoding="utf-8")
        assert dimba("report", run.id, cwd=tmp_path).returncode == 0
        text = (run.path / "report.html").read_text(encoding="utf-8")
        assert ("better than its base: by much" in text) is shown
        assert ("<td>-0.25 to -0.15</td>" in text) is shown and "broken" not in text
        assert ("mine bleu" in text and "<td>none</td>" in text) is shown, "it has no values of rows"


def test_nan_and_infinity_leave_a_gap_and_a_note(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[[]])
    lines = '{"step": 1, "loss": 2}\n{"step": 2, "loss": NaN}\n{"step": 3, "loss": -Infinity}\n{"step": 4, "loss": 1}\n'
    (run.path / "attempts/1/metrics.jsonl").write_text(lines, encoding="utf-8")
    assert dimba("report", "first", cwd=tmp_path).returncode == 0
    page = Page(run.path / "report.html")
    assert page.drawings[0]["curves"][0]["y"] == [2, None, None, 1]  # type: ignore[index]
    assert "not a number at 2 steps, first at step 2" in page.text


def test_the_texts_of_strangers_stay_texts(tmp_path: Path, dimba: Dimba):
    learning = {"continuations": [{"prompt": EVIL, "before": EVIL, "after": EVIL, "changed": True}], "cause": EVIL}
    rewards = {"step": 1, "reward": 1.0, f"rewards/{EVIL}/mean": 1.0, "rewards/b/mean": 2}
    run = write_run(
        tmp_path / "runs", f"first-{'<b>x'}", attempts=[[rewards]], learning=learning, learned=False,
        command=["dimba", EVIL], gpu_names=[EVIL], packages={EVIL: EVIL},
        plan={"argv": [EVIL], "data": {"summary": {"format": EVIL, "rows": 3}}},
    )  # fmt: skip
    (run.path / "job.yaml").write_text(f"# {EVIL}\n", encoding="utf-8")
    attempt = run.path / "attempts" / "1"
    (attempt / "log.txt").write_text(EVIL + "\n", encoding="utf-8")
    sample = {"step": 1, "prompt": [{"role": EVIL, "content": EVIL}], "completion": EVIL, "reward": 1, "tokens": EVIL}
    write_lines(attempt / "samples.jsonl", [sample, {"step": 1, "prompt": 5, "completion": None, "reward": EVIL}])
    assert dimba("report", "first", cwd=tmp_path).returncode == 0
    page = Page(run.path / "report.html")
    assert not [tag for tag, _ in page.tags if tag in ("img", "b")]
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert page.text.count("onerror") >= 10
    assert any(curve["name"] == EVIL for curve in page.drawings[0]["curves"])  # type: ignore[attr-defined]


def test_data_are_shown_with_what_is_trained_marked(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 3)])
    parts = [{"text": "Which colour? ", "trained": False}, {"text": "Blue <b>.", "trained": True}]
    report = {
        "format": "messages", "columns": {}, "rows": 48, "unusable": 0, "bad": [], "tokens": 1124,
        "trained_tokens": 412, "max_length": 1024,
        "on_long": None, "long_rows": 0, "cut_tokens": 0, "cut_trained_tokens": 0, "left_out": 0,
        "examples": 48, "validation": 0, "median": 20, "longest": 30, "lengths": [], "notes": [],
        "shown": [{"where": "data.jsonl:1", "tokens": 9, "parts": parts, "title": "the first"}],
    }  # fmt: skip
    (run.path / "attempts/1/data.json").write_text(json.dumps(report), encoding="utf-8")
    dimba("report", "first", cwd=tmp_path)
    page = Page(run.path / "report.html")
    assert "messages, 48 rows, 1,124 tokens, 412 of them trained" in page.text
    assert "Blue <b>." in page.marked and "Which colour?" not in "".join(page.marked)


def test_secrets_are_masked(tmp_path: Path, dimba: Dimba):
    token = "hf_" + "abcdefghij" * 3
    run = write_run(tmp_path / "runs", attempts=[curve(1, 3)], command=["dimba", "launch", token])
    (run.path / "attempts/1/log.txt").write_text("the key is swordfish-42\n", encoding="utf-8")
    dimba("report", "first", cwd=tmp_path, WANDB_API_KEY="swordfish-42")
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert token not in html and "swordfish-42" not in html and "the key is ***" in html


def test_measured_memory_stands_beside_the_estimate(tmp_path: Path, dimba: Dimba):
    gib = 1 << 30
    memory = {"peak": "backward", "lower_bound": False, "total": 21 * gib}
    peak = {"step": 1, "max_steps": 3, "peak_memory_bytes": 20 * gib}
    run = write_run(tmp_path / "runs", attempts=[[*curve(1, 3), peak]], plan={"memory": memory})
    dimba("report", "first", cwd=tmp_path)
    page = Page(run.path / "report.html")
    assert page.drawings[-1]["name"] == "memory"
    assert "20.0 GiB at its peak, 21.0 GiB estimated, the estimate is +5.0% off" in page.text


def test_the_attempts_of_a_resumed_run_are_listed(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 60, total=100), curve(51, 100)])
    dimba("report", "first", cwd=tmp_path)
    text = Page(run.path / "report.html").text
    assert "100 of 100, 10 of them trained again after a resume" in text
    assert "attempt started ended duration reason exit code" in text


def test_json_has_the_path_and_the_last_metrics(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[[{"step": 3, "max_steps": 4, "loss": 0.5}]])
    value = json.loads(dimba("report", "first", "--json", cwd=tmp_path).stdout)
    assert value["path"] == str(run.path / "report.html") and value["bytes"] == Path(value["path"]).stat().st_size
    assert (
        value["runs"][0] | {"step": 3, "max_steps": 4, "last": {"loss": 0.5}, "status": "succeeded"} == value["runs"][0]
    )


def test_open_hands_the_file_to_the_browser(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 3)])
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n', encoding="utf-8")
    browser.chmod(0o755)
    assert dimba("report", "first", "--open", cwd=tmp_path, BROWSER=f"{browser} %s").returncode == 0
    for _ in range(50):
        if (tmp_path / "opened").exists() and (tmp_path / "opened").read_text():
            break
        time.sleep(0.1)
    assert (tmp_path / "opened").read_text().strip() == (run.path / "report.html").as_uri()


def test_a_run_that_does_not_exist_is_refused_with_the_command_that_lists_them(tmp_path: Path, dimba: Dimba):
    write_run(tmp_path / "runs")
    done = dimba("report", "other", cwd=tmp_path)
    assert done.returncode == 2 and "no run `other`" in done.stderr and "dimba ps -a" in done.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 5}'])
def test_a_run_without_a_readable_record_is_refused_and_nothing_is_written(tmp_path: Path, dimba: Dimba, text: str):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 3)])
    (run.path / "run.json").write_text(text, encoding="utf-8")
    done = dimba("report", run.id, cwd=tmp_path)
    assert done.returncode == 2 and "run.json: not a run record" in done.stderr and "hint:" in done.stderr
    assert not (run.path / "report.html").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 3)])
    (run.path / "report.html").mkdir()  # root may write everywhere, but not in place of a folder
    done = dimba("report", "first", cwd=tmp_path)
    assert done.returncode == 3 and str(run.path / "report.html") in done.stderr and "hint:" in done.stderr
    assert not list(run.path.glob(".*.part"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_report_belongs_to_the_runs_user(tmp_path: Path, dimba: Dimba):
    run = write_run(tmp_path / "runs", attempts=[curve(1, 3)])
    os.chown(run.path, 4321, 4321)
    dimba("report", "first", cwd=tmp_path)
    status = (run.path / "report.html").stat()
    assert (status.st_uid, status.st_gid) == (4321, 4321) and stat.S_IMODE(status.st_mode) & 0o400


def test_ten_thousand_steps_take_three_seconds_and_three_megabytes_at_most(tmp_path: Path):
    extra = {f"rewards/{part}/mean": 0.1 for part in "abcdef"} | dict.fromkeys(("reward", "kl", "entropy"), 0.2)
    lines = [line | extra for line in curve(1, 10_000, evaluated=100)]
    run = write_run(tmp_path / "runs", attempts=[lines])
    started = time.process_time()  # others' jobs do not count
    written = write_report([run], tmp_path)
    assert time.process_time() - started <= 3
    assert written.bytes <= 3_000_000 and written.bytes == written.path.stat().st_size


def test_embedded_json_neither_ends_a_script_nor_has_nan():
    assert "<" not in embedded([EVIL]) and json.loads(embedded([EVIL])) == [EVIL]
    with pytest.raises(ValueError, match="Out of range"):
        embedded([float("nan")])


def test_labels_of_runs_fit_a_legend_and_differ():
    long = ["x" * 60 + "-1", "x" * 60 + "-1"]
    labels = short_labels(["short", *long])
    assert labels[0] == "short" and len(set(labels)) == 3 and max(map(len, labels)) <= 39
