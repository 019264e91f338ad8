"""Rewards of answers as GRPO would score them, and by a reward model."""

from pathlib import Path
from typing import Any

import pytest

from dimba.commands.eval.answers import complete_text
from dimba.common.inference import Answer
from tests.trainers.test_inference import base, speaker  # noqa: F401  # fixtures


def row(number: int, text: str, reference: str | None) -> dict[str, Any]:
    messages = [{"role": "user", "content": "How many?"}]
    return {"number": number, "messages": messages, "reference": reference, "text": text, "tokens": len(text)}


def rewards(loaded: Any, names: list[str], rows: list[dict[str, Any]], model: Path | None = None) -> dict[int, Any]:
    from dimba.trainers.inference.rewarding import rewards_of

    asked = {"rewards": names, "reward_model": model and str(model), "rows": rows, "limit": 10}
    return dict(rewards_of(loaded, asked))


def test_answers_are_scored_by_every_reward_and_a_row_without_a_reference_has_none():
    rows = [row(0, "There are 4.", "4"), row(3, "There are 5.", "4"), row(4, "4", None)]
    found = rewards(None, ["numeric", "exact_match", "length:8"], rows)
    assert found[0] == [1.0, 0.0, -1.0] and found[3][0] == 0.0
    assert found[4][:2] == [None, None] and found[4][2] == 0.0


def test_reasoning_is_no_answer():
    texts = [Answer(text="4", reasoning="5?"), Answer(text="", reasoning="4 is it")]
    found = rewards(None, ["numeric"], [row(at, complete_text(each), "4") for at, each in enumerate(texts)])
    assert found == {0: [1.0], 1: [0.0]}


@pytest.mark.proof
def test_a_reward_model_scores_the_chat_with_its_answer(base: Path, speaker: Any, tmp_path: Path):  # noqa: F811
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = rewards(speaker, ["numeric"], [row(0, "It is 4.", "4"), row(1, "Blue, blue, blue.", "4")], tmp_path)
    chat = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "It is 4."}]
    ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        expected = float(model(**ids).logits[0, 0])
    assert found[0] == [1.0, pytest.approx(expected, abs=1e-4)]
    assert found[1][1] != pytest.approx(expected, abs=1e-4)
