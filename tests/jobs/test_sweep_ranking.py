"""The table of a sweep: which run is the best, by which value, and in which order."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dimba.cli.sweep_table import show_end, show_table
from dimba.commands.report import write_sweep_report
from dimba.jobs.sweep.ranking import Ranking, Standings
from dimba.records import RunRecord, create_run
from dimba.records.record import Attempt
from dimba.records.sweep import SweepRecord, SweepRun, sweep_folder

START, END = "2026-01-01T00:00:00+00:00", "2026-01-01T00:03:00+00:00"
Lines = list[dict[str, float | None]]
Make = Callable[..., Ranking]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a sweep on record: (status, exit reason, lines of metrics) of each run."""
    monkeypatch.setenv("DIMBA_LEASES", str(tmp_path / "leases"))
    monkeypatch.setattr("dimba.jobs.reconcile.spawn_supervisor", lambda _folder: None)  # the runs are on record alone
    me = (os.getuid(), os.getgid())

    def made(*runs: tuple[str, str, Lines], metric: str = "eval_loss", by_best: bool = False) -> Ranking:
        for number, (status, reason, lines) in enumerate(runs, 1):
            folder = create_run(tmp_path / "runs", f"s-{number}", *me)
            attempt = folder.attempt(folder.new_attempt())
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (attempt / "metrics.jsonl").write_text(text, encoding="utf-8")
            attempts = (Attempt(number=1, started=START, ended=END),)
            record = RunRecord(id=folder.id, name="s", status=status, exit_reason=reason, attempts=attempts, group="s")
            folder.write_record(record)
        numbers = range(1, len(runs) + 1)
        swept = tuple(SweepRun(id=f"s-{number}", values=(f"{number}e-4",), by_best=by_best) for number in numbers)
        sweep = SweepRecord(id="s", keys=("training.learning_rate",), runs=swept, metric=metric)
        create_run(tmp_path / "runs", "s", *me).write_json("sweep.json", sweep.as_json())
        found = sweep_folder(tmp_path / "runs", "s")
        assert found is not None
        return Ranking(found, sweep)

    return made


def losses(*values: float | None) -> Lines:
    return [{"step": step, "max_steps": 4, "loss": 9.0, "eval_loss": value} for step, value in enumerate(values, 1)]


def order(found: Standings) -> list[int]:
    return [row.number for row in found.rows]


DONE = ("succeeded", "completed")


def test_the_best_is_the_lowest_last_loss_of_a_run_that_succeeded_or_its_lowest_one_where_that_is_saved(make: Make):
    runs = [(*DONE, losses(3, 1, 2.5)), (*DONE, losses(3, 2, 2)), ("stopped", "stopped_by_sweep", losses(0.5))]
    last = make(*runs).look()
    assert last.best and last.best.number == 2 and order(last) == [2, 1, 3]
    saved = make(*runs, by_best=True).look()
    assert saved.best and saved.best.number == 1 and saved.best.score == 1


def test_of_rewards_the_highest_is_the_best(make: Make):
    runs = [(*DONE, [{"step": 0, "eval_reward": 0.1}, {"step": 9, "eval_reward": end}]) for end in (0.2, 0.9, 0.4)]
    found = make(*runs, metric="eval_reward").look()
    assert order(found) == [2, 3, 1] and found.as_json()["lower_is_better"] is False


def test_runs_without_a_number_come_last_and_active_ones_after_those_that_ended(make: Make):
    found = make(("queued", "", []), ("running", "", losses(1)), (*DONE, losses(None)), (*DONE, losses(2))).look()
    assert order(found) == [4, 3, 1, 2] and found.is_active
    assert [row.score for row in found.rows] == [2, None, None, 1]


def test_a_trainer_that_writes_no_validation_loss_is_compared_by_its_training_loss(make: Make):
    found = make((*DONE, [{"step": 1, "loss": 2.0}]), (*DONE, [{"step": 1, "loss": 1.0}])).look()
    assert found.metric.key == "loss" and order(found) == [2, 1]


def test_a_run_whose_record_is_gone_is_named_and_hides_no_other(make: Make, tmp_path: Path):
    ranking = make((*DONE, losses(2)), (*DONE, losses(1)))
    (tmp_path / "runs" / "s-2" / "run.json").unlink()
    found = ranking.look()
    assert order(found) == [1] and found.missing == ("s-2",)


@pytest.mark.parametrize("columns", ["40", "60", "80", "200"])
def test_the_table_fits_the_terminal_and_names_every_value(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
):
    monkeypatch.setenv("COLUMNS", columns)
    found = make((*DONE, losses(3, 1)), ("stopped", "stopped_by_sweep", losses(5))).look()
    show_table(found)
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= int(columns)
    assert "1e-4" in out and "2e-4" in out and "stopped_by_sweep" in out


def test_the_end_names_the_best_run_and_what_comes_next(make: Make, capsys: pytest.CaptureFixture[str]):
    show_end(make((*DONE, losses(3, 1)), (*DONE, losses(5))).look())
    err = capsys.readouterr().err
    assert "best: s-1 (learning_rate=1e-4), validation loss 1" in err and "`dimba eval s-1`" in err
    show_end(make(("failed", "trainer_error", []), ("stopped", "sweep_failed", [])).look())
    assert "no run succeeded" in capsys.readouterr().err


def test_the_report_of_a_sweep_has_its_table_and_names_the_curves_by_their_values(make: Make):
    ranking = make((*DONE, losses(3, 2)), (*DONE, losses(5, 1)))
    written = write_sweep_report(ranking.folder)
    page = written.path.read_text(encoding="utf-8")
    assert written.path.parent == ranking.folder.path
    table = page[page.index("The runs, best first") :]
    assert table.index("2: 2e-4") < table.index("1: 1e-4") and "training.learning_rate" in table
