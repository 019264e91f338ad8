"""From rows to prompts: refusals before a model is loaded or a completion sampled."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput
from dimba.objectives.grpo import GRPO
from dimba.trainers.data.prompt_rendering import chat_ids
from dimba.trainers.models.loading import load_tokenizer
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.objectives.grpo.prompts import Prompts
from tests.conftest import write_rows

STRICT = (
    "{% for message in messages %}"
    "{% if message.role == 'system' or (loop.index0 and messages[loop.index0 - 1].role == message.role) %}"
    "{{ raise_exception('only users and assistants, in turns') }}{% endif %}"
    "<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture
def strict(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint whose template refuses chats, as those of Gemma and Mistral do."""
    base = tmp_path / "strict"
    shutil.copytree(tiny_checkpoint, base)
    (base / "chat_template.jinja").write_text(STRICT, encoding="utf-8")
    return base


def prompts(base: Path, rows: list[dict[str, Any]], *flags: str) -> Prompts:
    data = write_rows(base.parent / "rows.jsonl", rows)
    named = ["--base-checkpoint", str(base), "--dataset", str(data), "--max-length", "128"]
    return load_prompts(GRPO.parse([*named, "--max-completion-length", "8", *flags]), lambda _rows: None)


SUM = {"question": "1 + 1?", "answer": "2"}


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "1e999", "much"])
def test_a_weight_is_a_finite_number(weight: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        GRPO.parse(["--base-checkpoint", "b", "--dataset", "d", "--reward-weights", "1", weight])
    assert weight in capsys.readouterr().err
    given = ["--base-checkpoint", "b", "--dataset", "d", "--reward-weights", "-0.5"]
    assert GRPO.parse(given).reward_weights == (-0.5,)


def test_data_without_a_usable_row_are_refused_with_the_reasons(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    with pytest.raises(BadInput, match=r"rows.jsonl:1: `answer` is blank"):
        prompts(base, [{**SUM, "answer": ""}] * 3)
    with pytest.raises(BadInput, match=r"2 of 2 pairs compare nothing"):
        prompts(base, [{"prompt": "Q", "chosen": "A", "rejected": "A"}] * 2)


def test_options_that_no_reward_uses_are_refused_or_noted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    with pytest.raises(BadInput, match="--reward-model: none of the rewards uses a model"):
        prompts(base, [SUM], "--reward-model", "somewhere")
    notes = prompts(base, [SUM], "--reward", "numeric", "length:8").report.notes
    assert "reward length:8 is always 0: no completion has more than 8 tokens" in notes
    assert not any("always 0" in note for note in prompts(base, [SUM], "--reward", "length:7").report.notes)


def test_at_least_one_question_is_left_to_train_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    rows = [{"question": f"{n % 3}?", "answer": "1"} for n in range(9)]
    with pytest.raises(
        BadInput, match=r"--validation-split 3: the 9 rows ask 3 different questions\n\nhint: .* most 2"
    ):
        prompts(base, rows, "--validation-split", "3")
    assert len(prompts(base, rows, "--validation-split", "2").require_usable().held_out) == 6


def test_with_auto_an_answer_that_is_no_plain_number_makes_the_row_unusable(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    rows = [*[SUM] * 19, {**SUM, "answer": "about 3 or 4"}]
    with pytest.raises(BadInput, match=r"rows.jsonl:20: the reference answer is not one plain number \(`answer`\)"):
        prompts(base, rows).require_usable()
    assert len(prompts(base, rows, "--skip-bad-rows").require_usable().train) == 19
    assert len(prompts(base, rows, "--reward", "numeric").require_usable().train) == 20


def test_a_chat_that_the_template_refuses_makes_the_row_unusable(strict: Path) -> None:
    rows = [SUM, {**SUM, "system": "Be brief."}, SUM]
    with pytest.raises(BadInput, match=r"rows.jsonl:2: the chat template refuses this chat: only users"):
        prompts(strict, rows).require_usable()
    assert len(prompts(strict, rows, "--skip-bad-rows").require_usable().train) == 2


def test_a_template_that_refuses_every_chat_is_the_reported_cause(strict: Path) -> None:
    with pytest.raises(BadInput, match=r"chat_template.jinja: the chat template fails on every chat \(3\): only users"):
        prompts(strict, [{**SUM, "system": "Be brief."}] * 3).require_usable()


def test_both_answers_of_a_pair_must_render(strict: Path) -> None:
    good = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    turns = [{"role": "assistant", "content": "A"}, {"role": "assistant", "content": "again"}]
    with pytest.raises(BadInput, match=r"rows.jsonl:2: the chat template refuses this chat"):
        prompts(strict, [good, {**good, "rejected": turns}]).require_usable()
    assert len(prompts(strict, [good, {**good, "rejected": turns}], "--reward", "length").require_usable().train) == 2


def test_a_chat_that_the_reward_models_template_refuses_is_reported(strict: Path) -> None:
    chat = [{"role": "user", "content": "Q"}, {"role": "user", "content": "Q"}]
    with pytest.raises(BadInput, match="template of the reward model refuses a chat: only users"):
        chat_ids(load_tokenizer(str(strict)), [chat])
