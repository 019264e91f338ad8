"""What a run has saved is loaded as it was trained, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dimba.common.errors import BadInput
from dimba.common.trained import TrainedModel, adapter_base
from dimba.trainers.tiny import conversations, make_checkpoint

LORA: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "base"
    texts = [message["content"] for row in conversations() for message in row["messages"]]
    make_checkpoint(folder, texts, hidden_size=32, intermediate_size=48)
    return folder


def save_adapter(base: Path, folder: Path, *, added: tuple[str, ...] = (), **settings: Any) -> Any:
    """Writes a random adapter on `base`, with tokens `added` to its tokenizer; returns the model in memory."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dimba.trainers.models.vocabulary import add_rows, trained_rows

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(list(added), special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    rows = trained_rows(model, add_rows(model, tokenizer))
    model = get_peft_model(model, LoraConfig(**{**LORA, **settings}, trainable_token_indices=rows or None))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def loaded(folder: Path, base: Path | str = "") -> Any:
    from dimba.trainers.models.trained import Loading, load_trained

    return load_trained(TrainedModel(folder=str(folder), base=str(base)), Loading())


@pytest.mark.parametrize("added", [(), ("<|call|>", "<|result|>")])
def test_an_adapter_is_loaded_on_its_base_with_the_rows_that_training_added(base: Path, tmp_path: Path, added: tuple):
    model, ids = save_adapter(base, tmp_path / "tuned", added=added), torch.arange(3, 30)[None]
    found = loaded(tmp_path / "tuned", base)
    assert len(found.tokenizer) == len(found.model.get_input_embeddings().weight)
    with torch.no_grad():
        assert torch.equal(found.model(ids).logits, model(ids).logits)


def test_a_complete_model_needs_no_base(base: Path):
    found = loaded(base)
    assert found.ends == (found.tokenizer.eos_token_id,)
    assert not any(each.requires_grad for each in found.model.parameters())


def test_generation_also_ends_at_the_token_that_ends_a_turn_in_the_template(base: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|system|>")
    save_adapter(base, tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    found = loaded(tmp_path / "tuned", base)
    assert set(found.ends) == set(tokenizer.convert_tokens_to_ids(["<|end|>", "<|system|>"]))


def test_an_adapter_of_a_deeper_base_is_refused(base: Path, tmp_path: Path):
    make_checkpoint(tmp_path / "deep", ["a"], hidden_size=32, intermediate_size=48, num_hidden_layers=3)
    save_adapter(tmp_path / "deep", tmp_path / "tuned")
    with pytest.raises(BadInput, match="the adapter does not fit its base: unexpected keys"):
        loaded(tmp_path / "tuned", base)


def test_an_adapter_of_a_wider_base_is_refused(base: Path, tmp_path: Path):
    make_checkpoint(tmp_path / "wide", ["a"], hidden_size=64, intermediate_size=48)
    save_adapter(tmp_path / "wide", tmp_path / "tuned")
    with pytest.raises(BadInput, match="the adapter does not fit its base"):
        loaded(tmp_path / "tuned", base)


def test_the_base_of_an_adapter_is_read_from_its_configuration(base: Path, tmp_path: Path):
    save_adapter(base, tmp_path / "tuned")
    assert adapter_base(tmp_path / "tuned") == str(base)
    assert adapter_base(base) is None
