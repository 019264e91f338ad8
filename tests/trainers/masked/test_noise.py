"""Masks: spread evenly over a step, the same for any division of it, and exact in number where a model is evaluated."""

import math

import pytest
import torch

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.models.masked_diffusion.answers import Rows
from dimba.trainers.models.masked_diffusion.noise import (
    EPSILON,
    LEVELS,
    TAIL,
    drawn,
    drawn_numbers,
    drawn_tails,
    evaluated,
)
from dimba.trainers.models.masked_diffusion.tails import collate_with_tail

EVERY = torch.ones(8, 20, dtype=torch.bool)


def test_shares_are_spread_evenly_over_a_step_and_uniform_over_steps():
    shares = torch.stack([drawn(7, step, range(8), 8, EVERY).share for step in range(300)])
    in_order = shares.sort(dim=1).values
    assert torch.allclose(in_order.diff(dim=1), torch.full((300, 7), (1 - EPSILON) / 8), atol=1e-5)
    assert shares.min() >= EPSILON and shares.max() <= 1
    assert shares[:, 3].mean().item() == pytest.approx(0.5, abs=0.05)  # of one place alone


def test_a_token_is_masked_with_the_share_of_its_row_and_the_prompt_never():
    trained = torch.zeros(2, 4000, dtype=torch.bool)
    trained[:, 1000:] = True
    noise = drawn(1, 2, range(2), 2, trained)
    assert not noise.masked[:, :1000].any()
    assert torch.allclose(noise.masked[:, 1000:].float().mean(dim=1), noise.share, atol=0.03)


def test_masks_are_the_same_however_a_step_is_divided():
    complete = drawn(7, 3, range(8), 8, EVERY)
    for places in (range(2), range(4, 8)):
        part = drawn(7, 3, places, 8, EVERY[list(places)])
        assert part.masked.equal(complete.masked[list(places)]) and part.share.equal(complete.share[list(places)])
        assert drawn_tails(7, 3, places) == drawn_tails(7, 3, range(8))[places.start : places.stop]
    narrow = drawn(7, 3, range(8), 8, EVERY[:, :9])  # as where the longest row is in another batch
    assert narrow.masked.equal(complete.masked[:, :9])
    assert not drawn(7, 4, range(8), 8, EVERY).masked.equal(complete.masked)
    assert not drawn(8, 3, range(8), 8, EVERY).masked.equal(complete.masked)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 50])
def test_an_evaluation_of_a_uniform_model_gives_log_v_a_token_and_of_one_that_knows_nothing_else(count: int):
    ids = torch.arange(60)[None].repeat(2, 1)
    trained = torch.zeros(2, 60, dtype=torch.bool)
    trained[:, 5 : 5 + count] = True
    levels = list(evaluated(ids, trained))
    nats = sum((level.noise.masked.sum(dim=1) * math.log(300) * level.weight).sum().item() for level in levels)
    assert nats / (2 * count) == pytest.approx(math.log(300), rel=1e-6)
    assert len(levels) == LEVELS and not any((level.noise.masked & ~trained).any() for level in levels)
    shares = torch.stack([level.noise.share for level in levels])
    assert torch.allclose(shares, torch.stack([level.noise.masked.sum(dim=1) / count for level in levels]))


def test_the_masks_of_an_evaluation_depend_on_the_answer_and_not_on_its_batch():
    ids = torch.arange(40).view(2, 20)
    trained = torch.zeros(2, 20, dtype=torch.bool)
    trained[:, 8:] = True
    alone = [level.noise.masked for level in evaluated(ids[1:], trained[1:])]
    beside = [level.noise.masked[1:] for level in evaluated(ids, trained)]
    assert all(one.equal(other) for one, other in zip(alone, beside, strict=True))


def rows(labels: list[list[int]]) -> Rows:
    ids = torch.tensor(labels).abs()
    return Rows(ids, torch.ones_like(ids), torch.tensor(labels))


def test_a_row_is_cut_behind_one_answer_as_what_follows_would_give_it_away():
    no = IGNORED
    two = rows([[no, no, 3, 4, no, 6, 7, no], [no, 2, 3, no, no, no, no, no]])
    assert two.counts == [2, 1]
    first, second = two.all(2)
    assert first.ids.shape == (2, 4) and first.trained.tolist() == [[0, 0, 1, 1], [0, 1, 1, 0]]
    assert first.attended.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert second.trained.tolist() == [[0, 0, 0, 0, 0, 1, 1], [0] * 7]
    draws = [tuple(drawn_numbers(0, step, range(2), two.counts)) for step in range(64)]
    assert set(draws) == {(1, 1), (2, 1)} and drawn_numbers(0, 0, [0], [0]) == [0]


def test_masked_tokens_behind_an_answer_hide_its_length_and_have_no_loss():
    no = IGNORED
    [cut] = rows([[no, 2, 3, no], [no, 2, no, no], [no, no, no, no]]).all(1)
    found = cut.with_tails([2, 0, 5], most=4, mask_id=99)
    assert found.ids[0].tolist() == [100, 2, 3, 99]  # no longer than a row may be
    assert found.attended.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert found.trained.tolist() == [[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert set(drawn_tails(0, 0, range(2000))) == set(range(TAIL + 1))


def test_end_tokens_fill_a_row_that_was_not_cut_up_to_a_multiple():
    no = IGNORED
    given = [
        {"input_ids": [5, 6, 7, 8], "labels": [no, 6, 7, no]},
        {"input_ids": [5] * 10, "labels": [no] + [5] * 9},
        {"input_ids": [0], "labels": [no]},
    ]
    plain = collate_with_tail(given, pad_id=0, end_id=2, multiple=0, most=10)
    assert (
        plain["input_ids"][0].tolist() == [5, 6, 7] + [0] * 7 and plain["labels"][0].tolist() == [no, 6, 7] + [no] * 7
    )
    tail = collate_with_tail(given, pad_id=0, end_id=2, multiple=8, most=10)
    assert tail["input_ids"][0].tolist() == [5, 6, 7, 2, 2, 2, 2, 2, 0, 0]
    assert tail["labels"][0].tolist() == [no, 6, 7, 2, 2, 2, 2, 2, no, no]
    assert tail["labels"][1].tolist() == plain["labels"][1].tolist()  # as long as rows may be: it has no end
    assert tail["labels"][2].tolist() == plain["labels"][2].tolist()
