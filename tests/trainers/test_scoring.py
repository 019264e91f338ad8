"""--reward-model: models with one output are loaded, anything else is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput
from dimba.objectives.grpo import GRPO, GrpoOptions
from dimba.trainers.models.loading import Compute
from dimba.trainers.objectives.grpo.reward_model import base_identity
from dimba.trainers.objectives.grpo.scoring import load_scorer

CPU = Compute(on_cpu=True, mixed="no")


def options(base: Path | str) -> GrpoOptions:
    return GRPO.parse(["--base-checkpoint", str(base), "--dataset", "rows", "--max-length", "64", "--use-lora"])


def scorer(folder: Path, base: Path | str) -> Any:
    from dimba.trainers.models.loading import load_tokenizer

    return load_scorer(str(folder), options(base), load_tokenizer(str(base)), CPU)


def classifier(base: Path, folder: Path, labels: int) -> Path:
    """A model with `labels` outputs on that base."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def test_a_model_with_one_output_scores_chats(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = scorer(classifier(tiny_checkpoint, tmp_path / "one", 1), tiny_checkpoint)
    assert len(model([({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"})])) == 1


def test_a_model_without_a_head_of_one_output_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no reward head: `score.weight` is not in its files"):
        scorer(tiny_checkpoint, tiny_checkpoint)
    with pytest.raises(BadInput, match=r"`score.weight` is 2×\d+; a reward model has one output"):
        scorer(classifier(tiny_checkpoint, tmp_path / "two", 2), tiny_checkpoint)


def adapter(base: Path, folder: Path) -> Path:
    """A reward model as stage 1 saves it."""
    from peft import LoraConfig, get_peft_model

    from dimba.trainers.models.loading import load_classifier

    model = load_classifier(str(base), options(base), CPU)
    config = LoraConfig(r=1, target_modules=["q_proj"], modules_to_save=["score"], task_type="SEQ_CLS")
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def test_an_adapter_fits_its_base_by_any_path_and_no_other_base(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = adapter(tiny_checkpoint, tmp_path / "adapter")
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    around = os.path.relpath(tiny_checkpoint)
    assert around.startswith("..") and base_identity(around) == base_identity(str(tiny_checkpoint))
    assert scorer(made, around)
    with pytest.raises(BadInput, match="is an adapter on"):
        scorer(made, classifier(tiny_checkpoint, tmp_path / "other", 1))


@pytest.mark.parametrize(
    ("config", "why"), [("{", "adapter_config.json"), ({"task_type": "CAUSAL_LM"}, "without a reward head")]
)
def test_an_adapter_without_a_reward_head_is_refused(
    config: object, why: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    made = adapter(tiny_checkpoint, tmp_path / "adapter")
    (made / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(BadInput, match=why):
        scorer(made, tiny_checkpoint)
