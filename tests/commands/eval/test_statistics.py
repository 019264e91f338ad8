"""Comparisons that hold: equal models are rarely called better, a planted difference is found, few rows are refused."""

import random
from collections.abc import Callable

import pytest

from dimba.commands.eval.statistics import (
    LEAST,
    compare,
    count_wins,
    permutation_p,
    rows_needed,
    sign_p,
    student_quantile,
)

DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda drawn: drawn.gauss(0, 1),
    "heavy tails": lambda drawn: drawn.gauss(0, 1) / drawn.gammavariate(1, 1) ** 0.5,
    "ties": lambda drawn: drawn.choice([0] * 8 + [1, -1]),
    "skewed upwards": lambda drawn: drawn.expovariate(1) - 1,
    "skewed downwards": lambda drawn: 1 - drawn.expovariate(1),
}


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (30, 2.0423), (500, 1.9647)])
def test_quantiles_are_those_of_students_tables(freedom: int, expected: float):
    assert student_quantile(0.975, freedom) == pytest.approx(expected, abs=1e-4)


def test_the_interval_of_symmetric_differences_is_students():
    values = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]  # mean 3, deviation √11
    low, high = compare(values).interval
    assert (low, high) == pytest.approx((3 - 2.2281, 3 + 2.2281), abs=1e-3)


def test_a_permutation_test_of_few_rows_is_exact():
    assert permutation_p([1.0, 2.0, 3.0]) == 2 / 8
    assert permutation_p([1.0, 2.0, 3.0, 0.0, 0.0]) == 2 / 8, "ties say nothing"
    assert permutation_p([1.0, -1.0]) == 1


def test_a_sign_test_is_the_binomial_one():
    assert sign_p(5, 0) == 2 / 32
    assert sign_p(3, 1) == 10 / 16
    assert sign_p(0, 0) == sign_p(4, 4) == 1
    assert sign_p(1200, 1000) == pytest.approx(2.2e-5, rel=0.05), "the normal distribution for many rows"


def test_wins_count_ties_as_half_and_have_wilsons_interval():
    found = count_wins([1.0] * 60 + [0.0] * 20 + [-1.0] * 20)
    assert (found.wins, found.ties, found.losses, found.rate) == (60, 20, 20, 0.7)
    assert found.interval == pytest.approx((0.604, 0.781), abs=1e-3)
    assert found.p < 0.001
    assert count_wins([1.0] * 20).interval[1] == 1.0


def test_differences_that_are_all_the_same_tell_if_they_are_not_zero():
    assert compare([0.5] * 20).better is True
    assert compare([-0.5] * 20).better is False
    same = compare([0.0] * 20)
    assert same.better is None and same.needed is None and same.p == 1


def test_fewer_rows_than_the_least_never_tell():
    assert compare([1.0 + number / 100 for number in range(LEAST - 1)]).better is None


def test_the_rows_that_would_do_find_the_difference_four_times_out_of_five():
    needed = rows_needed(0.25, 1.0, 50)
    assert needed == 130, "((1.96 + 0.84) / 0.25)² = 126, in two digits"
    drawn = random.Random(5)
    found = sum(compare([drawn.gauss(0.25, 1) for _ in range(needed)]).better is True for _ in range(40))
    assert 25 <= found <= 39


def test_no_number_of_rows_shows_a_difference_of_nothing():
    assert rows_needed(0.0, 1.0, 50) is None and rows_needed(1e-6, 1.0, 50) is None


def test_a_planted_difference_is_found_and_rows_that_cannot_tell_name_how_many_would():
    drawn = random.Random(3)
    assert compare([drawn.gauss(0.3, 1) for _ in range(400)]).better is True
    assert compare([drawn.gauss(-0.3, 1) for _ in range(400)]).better is False
    few = compare([drawn.gauss(0.3, 1) for _ in range(20)])
    assert few.better is None and few.needed and few.needed > 20


def test_several_comparisons_at_once_are_each_stricter():
    drawn = random.Random(1)
    values = [drawn.gauss(0.03, 1) for _ in range(300)]
    one, many = compare(values), compare(values, comparisons=20)
    assert one.better is True and many.better is None
    assert many.interval[0] < one.interval[0] < one.interval[1] < many.interval[1]


@pytest.mark.proof
@pytest.mark.parametrize("rows", [12, 25, 60, 200])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_of_1000_pairs_of_equal_models_at_most_6_percent_are_called_better(name: str, rows: int):
    drawn, draw = random.Random(f"{name} {rows}"), DISTRIBUTIONS[name]
    found = [compare([draw(drawn) for _ in range(rows)], seed=seed).better for seed in range(1000)]
    assert sum(each is True for each in found) <= 60
    assert sum(each is False for each in found) <= 60
