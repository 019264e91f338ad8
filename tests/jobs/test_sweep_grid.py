"""The grid of a sweep, its names, and successive halving."""

import random
from itertools import permutations

import pytest

from dimba.jobs.sweep.grid import Axis, combinations, folder_names, override, size_of
from dimba.jobs.sweep.halving import rung_of, worst
from dimba.objectives.metrics import METRICS, metric_of
from dimba.objectives.registry import OBJECTIVES
from dimba.records.sweep import short_names
from dimba.spec import parse_spec
from tests.plan.test_plan import SPARSE

AXES = (Axis("training.learning_rate", ("1e-4", "2e-4")), Axis("lora.r", ("8", "16", "32")))
LOSS, REWARD = METRICS["eval_loss"], METRICS["eval_reward"]


def test_a_grid_has_every_combination_once_with_the_last_axis_the_fastest():
    values = [each.values for each in combinations(AXES, None, 0)]
    assert values[:4] == [("1e-4", "8"), ("1e-4", "16"), ("1e-4", "32"), ("2e-4", "8")]
    assert len(set(values)) == size_of(AXES) == 6
    assert combinations(AXES, 6, 0) == combinations(AXES, None, 0) == combinations(AXES, 99, 1)


def test_a_draw_has_no_repetition_and_depends_on_its_seed_alone():
    drawn = [combinations(AXES, 4, seed) for seed in range(20)]
    assert all(len({each.values for each in draw}) == 4 for draw in drawn)
    assert drawn[7] == combinations(AXES, 4, 7) and len({tuple(draw) for draw in drawn}) > 1


def test_a_draw_from_a_large_grid_does_not_build_it():
    axes = [Axis(f"k{n}", tuple(map(str, range(100)))) for n in range(8)]
    assert len(combinations(axes, 3, 0)) == 3


def test_overrides_set_what_was_written():
    (first, *_) = combinations((Axis("dataset.path", ('"a, b.jsonl"', "c.jsonl")),), None, 0)
    spec = parse_spec(SPARSE.encode(), source="job.yaml", overrides=["dataset={}", *first.overrides]).spec
    assert spec.sources["dataset"].path == "a, b.jsonl"


@pytest.mark.parametrize("text", ["out/a: b", "~/out", "1e3", "out # x", "a'b", 'a"b', "[x]", "*", "ö ü"])
def test_a_path_survives_as_an_override(text: str):
    spec = parse_spec(SPARSE.encode(), source="job.yaml", overrides=[override("output_dir", f"out/{text}")]).spec
    assert spec.output_dir == f"out/{text}"


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (("training.learning_rate", "lora.r"), ("learning_rate", "r")),
        (("lora.r",), ("r",)),
        (("a.r", "b.r"), ("a.r", "b.r")),
        (("x.a.r", "y.a.r", "q"), ("x.a.r", "y.a.r", "q")),
        (("dataset[0].weight", "dataset[1].weight"), ("dataset[0].weight", "dataset[1].weight")),
    ],
)
def test_names_are_the_shortest_ends_that_tell_keys_apart(keys: tuple[str, ...], names: tuple[str, ...]):
    assert short_names(keys) == names


def test_folders_are_named_by_their_values_in_characters_that_every_file_system_takes():
    assert folder_names(combinations(AXES, None, 0))[0] == "learning_rate=1e-4_r=8"
    odd = combinations((Axis("trainer_args.reward", ("../x", "'a:b'", "[a, b]", "A/B", "a*b", "x" * 300)),), None, 0)
    names = folder_names(odd)
    assert all("/" not in each and ":" not in each and "," not in each and len(each) < 120 for each in names)
    assert len({each.lower() for each in names}) == len(odd)


@pytest.mark.parametrize(
    "values", [("a:", "a", "a_2"), ("a_2", "a:", "a"), ("a:", "A", "a_2", "a!", "a_3"), ("", "''", "-")]
)
def test_no_two_runs_share_a_folder_where_a_value_looks_like_a_numbered_one(values: tuple[str, ...]):
    names = folder_names(combinations((Axis("trainer_args.x", values),), None, 0))
    assert len({each.lower() for each in names}) == len(values) and all(names)


def test_rungs_are_the_powers_of_two():
    assert [rung_of(count) for count in range(10)] == [0, 1, 2, 2, 4, 4, 4, 4, 8, 8]


def test_the_worse_half_at_a_rung_is_stopped_and_its_better_half_is_rounded_up():
    histories = {"a": [1.0], "b": [2.0], "c": [3.0], "d": [4.0], "e": [5.0], "new": []}
    assert worst(histories, LOSS) == {"d", "e"}
    assert worst(histories, REWARD) == {"a", "b"}


def test_the_best_at_a_rung_is_never_stopped_whatever_the_values_and_the_order():
    source = random.Random(0)
    for _ in range(300):
        values = {f"r{n}": [source.choice([0.5, 1.0, 2.0, None]) for _ in range(source.randrange(9))] for n in range(5)}
        stopped = worst(values, LOSS)
        for rung in (1, 2, 4, 8):
            reached = {run: each[rung - 1] for run, each in values.items() if len(each) >= rung}
            known = [value for value in reached.values() if value is not None]
            best = [run for run, value in reached.items() if known and value == min(known)]
            assert not stopped & {run for run in best if rung_of(len(values[run])) == rung}
        assert all(worst(dict(order), LOSS) == stopped for order in permutations(values.items(), 5))


def test_a_run_is_compared_at_its_newest_rung_only_and_alone_it_goes_on():
    assert worst({"slow": [9.0], "ahead": [9.5, 9.4]}, LOSS) == frozenset()
    assert worst({"only": [9.0]}, LOSS) == frozenset()
    assert worst({"a": [1.0, 5.0], "b": [2.0, 1.0]}, LOSS) == {"a"}


def test_a_value_that_is_no_number_is_the_worst():
    assert worst({"a": [None], "b": [7.0]}, LOSS) == {"a"}


def test_the_metric_is_of_held_out_rows_where_there_are_any():
    found = {
        mode: [metric_of(each, args).key for args in ({}, {"validation-split": 0.1})]
        for mode, each in OBJECTIVES.items()
    }
    assert found["sft"] == ["loss", "eval_loss"]
    assert found["grpo"] == ["reward", "eval_reward"]
    assert found["dpo"] == ["loss", "eval_loss"]
