"""Losses of rows: those of plain transformers, the same in any batch, cut and refused as in training."""

import math
from pathlib import Path
from typing import Any

import pytest

from dimba.common.inference import RowLoss, Scoring
from dimba.dataset.samples import Sample
from dimba.trainers.tiny import conversations, make_checkpoint, mean_loss
from tests.trainers.test_inference import speaker_of
from tests.trainers.test_trained import save_adapter

CHATS = [row["messages"] for row in conversations()[::7]]
SAMPLES = [Sample(messages=tuple(chat), trained=(False, True)) for chat in CHATS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring") / "base"
    texts = [message["content"] for row in conversations() for message in row["messages"]]
    make_checkpoint(folder, texts, hidden_size=32, intermediate_size=48, max_position_embeddings=96)
    return folder


@pytest.fixture(scope="module")
def speaker(base: Path) -> Any:
    return speaker_of(base)


def scored(speaker: Any, samples: list[Sample], **how: Any) -> list[RowLoss]:
    from dimba.trainers.inference.scoring import score_all

    found = score_all(speaker, list(enumerate(samples)), Scoring(**how), lambda: False)
    return sorted(found, key=lambda each: each.number)


def test_losses_are_those_of_plain_transformers(speaker: Any):
    for chat, loss in zip(CHATS, scored(speaker, SAMPLES), strict=True):
        expected = mean_loss(speaker.loaded.model, speaker.loaded.tokenizer, [chat])
        assert loss.nats / loss.tokens == pytest.approx(expected, rel=1e-5)


def test_a_loss_is_the_same_in_a_batch_of_any_size(speaker: Any):
    alone, together = (scored(speaker, SAMPLES, batch_size=size) for size in (1, 5))
    assert [each.tokens for each in alone] == [each.tokens for each in together]
    assert [each.nats for each in alone] == pytest.approx([each.nats for each in together], rel=1e-5)


def test_without_its_adapter_the_model_has_the_losses_of_its_base(base: Path, speaker: Any, tmp_path: Path):
    from dimba.trainers.inference.speaker import Speaker

    save_adapter(base, tmp_path / "tuned")
    tuned = speaker_of(tmp_path / "tuned", str(base))
    expected = [each.nats for each in scored(speaker, SAMPLES)]
    assert [each.nats for each in scored(Speaker(tuned.loaded, as_base=True), SAMPLES)] == pytest.approx(expected)
    assert [each.nats for each in scored(tuned, SAMPLES)] != pytest.approx(expected, rel=1e-3)


def test_long_rows_are_cut_split_or_left_out_as_in_training(speaker: Any):
    [complete] = scored(speaker, SAMPLES[:1])
    [cut] = scored(speaker, SAMPLES[:1], max_length=20)
    [split] = scored(speaker, SAMPLES[:1], max_length=20, on_long="split")
    [dropped] = scored(speaker, SAMPLES[:1], max_length=20, on_long="drop")
    assert cut.tokens < complete.tokens == split.tokens
    assert cut.cut > 0 == complete.cut
    assert not math.isclose(split.nats, complete.nats), "the second piece sees less"
    assert dropped.error == "no trained token within 20 tokens"


def test_a_row_that_would_not_be_trained_names_the_reason_and_the_others_have_their_losses(speaker: Any):
    empty = Sample(messages=(CHATS[0][0], {"role": "assistant", "content": " "}), trained=(False, True))
    long = Sample(messages=({"role": "user", "content": "word " * 200}, CHATS[0][1]), trained=(False, True))
    refused, good, beyond = scored(speaker, [empty, SAMPLES[0], long])
    assert "empty" in refused.error and not good.error
    assert beyond.error == "no trained token within 96 tokens", "the model's context"


def test_only_the_last_turn_counts_if_training_read_only_that(speaker: Any):
    chat = Sample(messages=(*CHATS[0], *CHATS[1]), trained=(False, True, False, True))
    [every], [last] = scored(speaker, [chat]), scored(speaker, [chat], train_on="last")
    assert 0 < last.tokens < every.tokens


def test_a_sample_is_the_same_on_the_other_side_of_the_wall():
    import json

    sample = Sample(messages=tuple(CHATS[0]), trained=(False, True), tools=({"name": "f"},), arguments={"a": 1})
    assert Sample.from_json(json.loads(json.dumps(sample.as_json()))) == sample
    assert Sample.from_json(json.loads(json.dumps(Sample(text="plain").as_json()))) == Sample(text="plain")
