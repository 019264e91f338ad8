"""Metrics joined over attempts, and long curves with fewer points."""

import json
from pathlib import Path

from dimba.commands.report.charts import charts_of
from dimba.commands.report.sampling import drawn
from dimba.jobs.metrics import Metrics, MetricsReader, Series, joined_metrics, joined_samples
from tests.commands.report.runs import curve, write_lines, write_run


def test_a_step_that_a_resume_repeats_counts_once_and_is_the_newest_attempts(tmp_path: Path):
    first = [{"step": n, "loss": 1.0} for n in range(1, 61)]
    second = [{"step": n, "loss": 2.0} for n in range(51, 101)]
    metrics = joined_metrics(write_run(tmp_path, attempts=[first, second]))
    assert metrics.series("loss") == Series(tuple(range(1, 101)), (1.0,) * 50 + (2.0,) * 50)
    assert metrics.repeated == 10


def test_steps_beyond_the_checkpoint_that_a_resume_continues_from_are_gone(tmp_path: Path):
    attempts = [[{"step": n, "loss": 1.0} for n in range(1, 61)], [{"step": 51, "loss": 2.0}]]
    assert joined_metrics(write_run(tmp_path, attempts=attempts)).last_step == 51


def test_an_attempt_without_a_step_yet_keeps_the_curve_of_the_one_before(tmp_path: Path):
    attempts = [curve(1, 20), [{"step": 10, "eval_loss": 3.0}]]
    metrics = joined_metrics(write_run(tmp_path, attempts=attempts))
    assert metrics.last_step == 20 and metrics.last("eval_loss") == 3.0


def test_the_tenth_attempt_comes_after_the_ninth(tmp_path: Path):
    attempts = [[{"step": 1, "loss": float(n)}] for n in range(1, 11)]
    assert joined_metrics(write_run(tmp_path, attempts=attempts)).last("loss") == 10.0


def test_the_highest_memory_of_all_attempts_remains_although_its_step_is_repeated(tmp_path: Path):
    attempts = [
        [{"step": 5, "loss": 1.0, "peak_memory_bytes": 900}],
        [{"step": 1, "loss": 1.0, "peak_memory_bytes": 700}],
    ]
    assert joined_metrics(write_run(tmp_path, attempts=attempts)).peak_memory == 900


def test_lines_that_are_no_metrics_are_counted_and_left_out(tmp_path: Path):
    folder = write_run(tmp_path, attempts=[[]])
    lines = [
        "",
        "no JSON",
        "[1]",
        '{"loss": 1}',
        '{"step": true, "loss": 1}',
        '{"step": 1e999, "loss": 1}',
        "[" * 10_000,
    ]
    text = "\n".join([*lines, '{"step": 2, "loss": 3, "text": "x", "flag": true}', '{"step": 3, "lo'])
    (folder.path / "attempts/1/metrics.jsonl").write_text(text, encoding="utf-8")
    metrics = joined_metrics(folder)
    assert metrics.rows == ((2.0, {"loss": 3.0}),)
    assert metrics.unreadable == 6


def test_a_value_that_is_not_a_number_is_a_gap(tmp_path: Path):
    folder = write_run(tmp_path, attempts=[[]])
    values = ["1.5", "NaN", "-Infinity", "null", f"1{'0' * 400}"]
    text = "".join(f'{{"step": {n}, "loss": {value}}}\n' for n, value in enumerate(values, 1))
    (folder.path / "attempts/1/metrics.jsonl").write_text(text, encoding="utf-8")
    assert joined_metrics(folder).series("loss").values == (1.5, None, None, None, None)


def test_a_reader_adds_what_was_written_since_it_read_last(tmp_path: Path):
    folder = write_run(tmp_path, attempts=[curve(1, 5)])
    reader = MetricsReader(folder)
    assert reader.read().last_step == 5
    path = folder.path / "attempts/1/metrics.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 6, "loss": 1.0}) + '\n{"step": 7')
    assert reader.read().last_step == 6


def test_samples_of_a_repeated_step_are_those_of_the_newest_attempt(tmp_path: Path):
    folder = write_run(tmp_path, attempts=[[], []])
    for number, steps in ((1, (1, 10, 20)), (2, (20, 30))):
        lines = [{"step": step, "completion": f"of {number}"} for step in steps]
        write_lines(folder.path / "attempts" / str(number) / "samples.jsonl", [*lines, {"no": "step"}])
    found = [(row["step"], row["completion"]) for row in joined_samples(folder)]
    assert found == [(1, "of 1"), (10, "of 1"), (20, "of 2"), (30, "of 2")]


def test_a_long_curve_keeps_its_ends_its_extremes_and_its_gaps():
    values: list[float | None] = [1.0] * 10_000
    values[4321], values[7777], values[5000] = 99.0, -99.0, None
    shown = drawn(Series(tuple(range(10_000)), tuple(values)))
    points = dict(zip(shown.steps, shown.values, strict=True))
    assert {0, 4321, 5000, 7777, 9999} <= set(points)
    assert points[4321] == 99.0 and points[7777] == -99.0 and points[5000] is None
    assert len(points) <= 2003 and list(points) == sorted(points)


def test_a_short_curve_is_drawn_whole():
    series = Series((1, 2, 3), (3.0, None, 1.0))
    assert drawn(series) is series


def metrics_of(*lines: dict[str, float | None]) -> Metrics:
    return Metrics(rows=tuple((float(n), dict(line)) for n, line in enumerate(lines, 1)))


def test_no_chart_is_drawn_for_what_a_run_has_not_measured():
    assert [chart.name for chart in charts_of([("run", metrics_of({"loss": 1.0}))])] == ["loss"]
    assert charts_of([("run", metrics_of({"loss": None, "unknown": 1.0}))]) == []
    assert charts_of([("run", Metrics())]) == []


def test_the_chart_says_in_words_and_in_a_table_what_it_draws():
    [chart] = charts_of([("run", metrics_of({"loss": 3.0}, {"loss": 1.0, "eval_loss": 2.0}, {"loss": None}))])
    assert "training: 3 at step 1, 1 at step 2, lowest 1 at step 2, highest 3 at step 1." in chart.words
    assert chart.table.head == ("step", "training", "validation")
    assert chart.table.rows == (("1", "3", ""), ("2", "1", "2"), ("3", "not a number", ""))
    assert chart.notes == ("training: not a number at 1 step, first at step 3: the curve has a gap there",)


def test_a_long_table_lists_steps_of_the_whole_run_and_says_how_many():
    [chart] = charts_of([("run", metrics_of(*({"loss": 1.0} for _ in range(10_000))))])
    assert len(chart.table.rows) == 60 and chart.table.note == "60 of 10,000 steps"
    assert chart.table.rows[0][0] == "1" and chart.table.rows[-1][0] == "10,000"
    assert chart.notes == ("10,000 steps; the lowest and the highest value of every 10 are drawn",)


def test_parts_of_a_reward_are_drawn_for_one_run_and_only_their_sum_for_several():
    metrics = metrics_of({"reward": 1.0, "rewards/exact/mean": 0.5, "rewards/length/mean": 0.5})
    [alone] = charts_of([("a", metrics)])
    assert [curve["name"] for curve in alone.drawing["curves"]] == ["training", "exact", "length"]
    [two] = charts_of([("a", metrics), ("b", metrics)])
    assert [curve["name"] for curve in two.drawing["curves"]] == ["a", "b"]


def test_a_reward_that_imitates_is_named_so():
    [chart] = charts_of([("a", metrics_of({"reward": 1.0, "rewards/imitation_similarity/mean": 1.0}))])
    assert chart.title == "Reward (imitation)"
