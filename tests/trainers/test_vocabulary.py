"""Tokens that have no row in the embedding get one, which is trained, saved and loaded again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.models.adapters import adapter_config
from dimba.trainers.models.loading import (
    Compute,
    load_model,
    load_reference,
    load_tokenizer,
    prepare_base,
)
from dimba.trainers.models.precision import Precision
from dimba.trainers.models.saved_model import saved_problem
from dimba.trainers.models.text_part import beyond_context, excluded_pattern, freeze_other_modules
from dimba.trainers.models.vocabulary import add_rows, trained_rows, untrained_ends

CPU = Compute(on_cpu=True, mixed="no")


def options(base: Path, *flags: str) -> SftOptions:
    return SFT.parse(
        ["--base-checkpoint", str(base), "--dataset", "x", "--output-dir", "y", "--max-length", "128", *flags]
    )


def more_tokens(base: Path) -> object:
    tokenizer = load_tokenizer(str(base))
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("flags", [(), ("--use-lora",), ("--use-qlora",)])
def test_rows_are_added_for_new_tokens_and_reported_with_both_counts(
    flags: tuple[str, ...], tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(tiny_checkpoint, *flags)
    model, tokenizer = load_model(given, CPU), more_tokens(tiny_checkpoint)
    rows = model.get_input_embeddings().weight.shape[0]
    assert prepare_base(model, given, tokenizer) == [rows, rows + 1]
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == rows + 2
    assert model.get_output_embeddings().weight.shape[0] == rows + 2
    output = capsys.readouterr().out
    assert f"{rows + 2:,} tokens" in output and f"{rows:,} rows" in output and "2 rows added" in output
    assert prepare_base(model, given, tokenizer) == []


def test_every_process_and_the_reference_add_the_same_rows(tiny_checkpoint: Path) -> None:
    given, tokenizer = options(tiny_checkpoint), more_tokens(tiny_checkpoint)
    model, reference = load_model(given, CPU), load_reference(given, CPU)
    add_rows(model, tokenizer)
    torch.rand(3)
    add_rows(reference, tokenizer)
    assert torch.equal(model.get_input_embeddings().weight, reference.get_input_embeddings().weight)


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_trains_and_saves_the_new_rows(tied: bool, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    base = tmp_path / "base"
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    config.tie_word_embeddings = tied
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    load_tokenizer(str(tiny_checkpoint)).save_pretrained(base)
    given, tokenizer = options(base, "--use-lora"), more_tokens(base)
    model = load_model(given, CPU)
    new = prepare_base(model, given, tokenizer)
    model = get_peft_model(model, adapter_config(given, model, tokenizer, new))
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1.0)
    ids = torch.tensor([[5, new[0], 7, new[1], 9]])
    before = model(input_ids=ids).logits.detach()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    after = model(input_ids=ids).logits.detach()
    rows = [each for name, each in model.named_parameters() if "trainable_tokens" in name]
    assert len(rows) == (1 if tied else 2) and all(each.grad.abs().sum() > 0 for each in rows)
    model.save_pretrained(tmp_path / "out")
    assert saved_problem(cast(Any, SimpleNamespace(model=model)), str(tmp_path / "out"), Precision(), [[5, 7, 9]]) == ""
    tokenizer.save_pretrained(tmp_path / "out")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(again(input_ids=ids).logits, after, atol=1e-5) and not torch.allclose(before, after)


@pytest.mark.parametrize(("change", "sign"), [("zero", "is zero"), ("equal", "equals 2 others"), ("small", "norm")])
def test_an_end_token_that_was_never_trained_is_reported(change: str, sign: str, tiny_checkpoint: Path) -> None:
    model, tokenizer = load_model(options(tiny_checkpoint), CPU), load_tokenizer(str(tiny_checkpoint))
    assert not untrained_ends(model, tokenizer, ["<|end|>"])
    rows = model.get_output_embeddings().weight.data
    rows[2] *= {"zero": 0, "equal": 1, "small": 0.01}[change]
    rows[9:11] = rows[2] if change == "equal" else rows[9:11]
    note = untrained_ends(model, tokenizer, ["<|end|>"])
    assert "`<|end|>`" in note and sign in note and 'trainable_tokens: ["<|end|>"]' in note


def test_rows_beyond_the_context_of_rotary_positions_are_reported(tiny_checkpoint: Path) -> None:
    model = load_model(options(tiny_checkpoint), CPU)
    assert "8,192 is beyond the base's context of 2,048" in beyond_context(model, 8192)
    assert not beyond_context(model, 2048)


def test_the_text_part_alone_is_trained(tmp_path: Path) -> None:
    from peft import get_peft_model

    from tests.families import make_family

    make_family("gemma3", tmp_path / "base")
    given = options(tmp_path / "base", "--use-lora")
    model = load_model(given, CPU)
    assert "vision_tower" in str(excluded_pattern(model))
    model = get_peft_model(model, adapter_config(given, model))
    adapted = [name for name, each in model.named_parameters() if each.requires_grad]
    assert adapted and all("language_model" in name for name in adapted)
    model = load_model(given, CPU)
    assert "only the text part is trained" in freeze_other_modules(model)
    trained = {name.split(".")[1] for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"language_model"}


def test_a_language_model_is_trained_whole(tiny_checkpoint: Path) -> None:
    model = load_model(options(tiny_checkpoint), CPU)
    assert not freeze_other_modules(model) and excluded_pattern(model) is None
    assert set(trained_rows(model, [3])) == {"model.embed_tokens", "lm_head"}


@pytest.mark.parametrize("family", ["llama4", "phimoe", "falcon_h1"])
def test_families_with_parts_of_their_own_get_an_adapter(family: str, tmp_path: Path) -> None:
    from peft import get_peft_model

    from tests.families import make_family

    make_family(family, tmp_path)
    given = options(tmp_path, "--use-lora")
    model = load_model(given, CPU)
    new = prepare_base(model, given, load_tokenizer(str(tmp_path)))
    model = get_peft_model(model, adapter_config(given, model, new_tokens=new))
    ids = torch.arange(6, 20)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    adapted = {name for name, each in model.named_parameters() if each.requires_grad}
    assert adapted and not any(".router." in name or ".gate." in name for name in adapted)
