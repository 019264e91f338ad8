"""Packing changes the speed and nothing else: losses and gradients equal those of rows in batches of their own."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.packing import collate_packed, collate_padded, pack_rows
from dimba.trainers.data.packing_probe import probe_packing

WINDOW = 6  # tokens; smaller than most documents
BASE = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {**BASE, **IDS, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128}
NEOX = {**BASE, **IDS, "intermediate_size": 64, "max_position_embeddings": 128}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **IDS}
MAMBA = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 32}
HYBRID = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
SLIDING = {**LLAMA, "head_dim": 8, "sliding_window": WINDOW}

PACKS: dict[str, dict[str, Any]] = {
    "Llama": LLAMA,
    "Qwen2": LLAMA,
    "Qwen3": {**LLAMA, "head_dim": 8},
    "Qwen3Moe": {**LLAMA, **EXPERTS, "head_dim": 8},
    "Mistral": SLIDING,
    "Phi3": {**LLAMA, "sliding_window": WINDOW},
    "Gemma3": SLIDING,
    "GPT2": GPT2,
    "GPTNeoX": NEOX,
}
LEAKS: dict[str, dict[str, Any]] = {
    "OPT": {**BASE, **IDS, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
    "Bloom": {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Falcon": {**BASE, **IDS},
    "GptOss": {**SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 4096},
    "Mamba": MAMBA,
    "Jamba": {**LLAMA, "num_experts": 2, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1},
    "FalconH1": {**LLAMA, **HYBRID, "head_dim": 8, "mamba_d_ssm": 64},
    "RecurrentGemma": {**LLAMA, "head_dim": 8, "attention_window_size": 8, "lru_width": 32, "num_hidden_layers": 3},
    "Qwen3Next": {**LLAMA, **EXPERTS, **DELTA, "head_dim": 8, "shared_expert_intermediate_size": 32},
}
ATTENTION = ("sdpa", "eager")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(family: str, shape: dict[str, Any], attention: str | None = None) -> Any:
    """A random model with weights so large that a leak between documents changes the losses visibly."""
    text = "TextConfig" if family == "Gemma3" else "Config"
    config = getattr(transformers, family + text)(**shape)
    if attention:
        config._attn_implementation = attention
    torch.manual_seed(0)
    model = getattr(transformers, family + ("LMHeadModel" if family == "GPT2" else "ForCausalLM"))(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.eval()


def documents(*lengths: int) -> list[dict[str, list[int]]]:
    """Rows of random tokens whose first third carries no loss."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 96, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": ids, "labels": [IGNORED] * (len(ids) // 3) + ids[len(ids) // 3 :]} for ids in rows]


LENGTHS = (17, 4, 9, 23, 1, 12, 8)
LIMIT = 40  # two packed rows, one of them padded


def by_token(model: Any, batch: dict[str, torch.Tensor]) -> list[float]:
    """Losses of the trained tokens, sorted, so that they do not depend on the layout."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "tokens")}
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return sorted(losses[labels.flatten() != IGNORED].tolist())


def separate_losses(model: Any, rows: list[dict[str, list[int]]]) -> list[float]:
    return sorted(loss for row in rows for loss in by_token(model, collate_padded([row], pad_id=0)))


def largest_difference(model: Any) -> float:
    """The largest difference of a loss, by another method than the probe: longer documents with a label mask."""
    rows = documents(*LENGTHS)
    with torch.no_grad():
        pairs = zip(
            separate_losses(model, rows), by_token(model, collate_packed(rows, max_length=LIMIT, pad_id=0)), strict=True
        )
        return max(abs(one - other) for one, other in pairs)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", PACKS)
def test_packed_rows_have_the_losses_and_gradients_of_padded_rows(family: str, attention: str):
    model = tiny(family, PACKS[family], attention)
    assert probe_packing(model).is_exact
    assert largest_difference(model) < 1e-5
    rows = documents(*LENGTHS)
    padded = gradients(model, collate_padded(rows, pad_id=0))
    packed = gradients(model, collate_packed(rows, max_length=LIMIT, pad_id=0))
    scale = max(gradient.abs().max().item() for gradient in padded)
    assert max((a - b).abs().max().item() for a, b in zip(padded, packed, strict=True)) < 1e-5 * max(scale, 1)


def gradients(model: Any, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    inputs = {name: value for name, value in batch.items() if name != "tokens"}
    model(**inputs, use_cache=False).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", LEAKS)
def test_the_probe_rejects_a_model_that_leaks_between_documents(family: str):
    model = tiny(family, LEAKS[family])
    result = probe_packing(model)
    assert not result.is_exact and result.reason
    assert result.difference == float("inf") or largest_difference(model) > 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_probe_gives_the_same_result_in_16_bits(dtype: torch.dtype):
    for family, shape in (PACKS | LEAKS).items():
        result = probe_packing(tiny(family, shape).to(dtype))
        assert result.is_exact == (family in PACKS), f"{family}: {result}"


def test_the_probe_works_with_an_adapter_on_a_quantised_base(tiny_checkpoint: Path):
    from peft import LoraConfig, get_peft_model

    from dimba.objectives.sft import SFT
    from dimba.trainers.models.loading import Compute, load_model

    flags = ["--base-checkpoint", str(tiny_checkpoint), "--dataset", "x", "--output-dir", "y", "--use-qlora"]
    base = load_model(SFT.parse(flags), Compute(on_cpu=True, mixed="no"))
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert probe_packing(model).is_exact
    leaking = get_peft_model(tiny("OPT", LEAKS["OPT"]), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert not probe_packing(leaking).is_exact


def test_the_probe_reports_a_model_that_raises_and_restores_its_training_mode():
    model = tiny("Llama", LLAMA).train()
    model.lm_head.eval()
    model.forward = lambda **_: 1 / 0
    result = probe_packing(model)
    assert not result.is_exact and "ZeroDivisionError: division by zero" in result.reason
    assert model.training and not model.lm_head.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_rejects_losses_of_nan(dtype: torch.dtype):
    model = tiny("Llama", LLAMA).to(dtype)
    original = model.forward

    def breaks_on_two_rows(**inputs: Any) -> Any:
        output = original(**inputs)
        output.logits *= float("nan") if len(inputs["input_ids"]) == 2 else 1
        return output

    model.forward = breaks_on_two_rows
    assert not probe_packing(model).is_exact


def test_the_probe_rejects_a_model_that_ignores_position_ids():
    model = tiny("Llama", LLAMA)
    original = model.forward
    model.forward = lambda position_ids=None, **inputs: original(**inputs)
    assert not probe_packing(model).is_exact


def test_a_packed_document_is_complete_and_its_first_token_carries_no_loss():
    rows = documents(*LENGTHS)
    batch = collate_packed(rows, max_length=LIMIT, pad_id=0)
    assert batch["input_ids"].shape == (2, 37) and sum(LENGTHS) == 74
    assert int(batch["tokens"]) == 73, "a row of one token only fills a step"
    starts = (batch["position_ids"] == 0).nonzero().tolist()
    assert len(starts) == len(rows) and all(batch["labels"][row, start] == IGNORED for row, start in starts)
    flat = batch["input_ids"].tolist()
    for ids in (row["input_ids"] for row in rows):
        assert any(packed[at : at + len(ids)] == ids for packed in flat for at in range(len(packed)))
    padded = collate_padded(rows, pad_id=0)
    assert (padded["labels"] != IGNORED).sum() == (batch["labels"] != IGNORED).sum()
    assert padded["tokens"] == batch["tokens"]


def test_padding_is_a_document_of_its_own():
    batch = collate_packed(documents(30, 20, 6), max_length=1, pad_id=7)
    assert batch["position_ids"][1].tolist() == [*range(20), *range(6), *range(4)]
    assert batch["labels"][1, 26:].tolist() == [IGNORED] * 4 and batch["input_ids"][1, 26:].tolist() == [7] * 4


@pytest.mark.parametrize("lengths", [[5], [5, 5, 5], [1000, 1, 1, 1], [7, 6, 5, 4, 4], list(range(1, 40))])
def test_packed_rows_are_few_and_about_equally_long(lengths: list[int]):
    for limit in (max(lengths), 64, 1024):
        rows = pack_rows(lengths, max(limit, *lengths))
        filled = [sum(lengths[document] for document in row) for row in rows]
        assert sorted(document for row in rows for document in row) == list(range(len(lengths)))
        assert max(filled) <= max(limit, *lengths) and min(filled) > 0
        assert max(filled) - min(filled) <= max(lengths), "padding needs no position beyond the longest document"
        assert len(rows) <= 2 * -(-sum(lengths) // limit)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
def test_packed_training_ends_with_the_weights_of_padded_training(adapter: bool, tmp_path: Path):
    runs = {name: train(tmp_path / name, adapter, name) for name in ("trl", "padded", "packed")}
    for name in ("padded", "packed"):
        (losses, weights, tokens), (expected, reference, _) = runs[name], runs["trl"]
        assert losses == pytest.approx(expected, abs=2e-5)
        assert max((weights[key] - reference[key]).abs().max().item() for key in weights) < 2e-5
        assert tokens == sum(range(5, 25)), "padding is not counted"


def train(folder: Path, adapter: bool, way: str) -> tuple[list[float], dict[str, torch.Tensor], int]:
    """(losses by step, trained weights, tokens seen) of TRL's own trainer and collator, or of dimba's."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from dimba.trainers.objectives.sft.causal_trainer import CausalTrainer
    from dimba.trainers.tiny import make_tokenizer

    tokenizer: PreTrainedTokenizerFast = make_tokenizer(["a"])
    padded = partial(collate_padded, pad_id=0)
    packed = partial(collate_packed, max_length=64, pad_id=0)
    trainer = (SFTTrainer if way == "trl" else CausalTrainer)(
        model=tiny("Llama", {**LLAMA, "vocab_size": len(tokenizer)}),
        args=SFTConfig(
            output_dir=str(folder), per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=1,
            learning_rate=1e-2, optim="sgd", lr_scheduler_type="constant", logging_steps=1, report_to="none",
            use_cpu=True, bf16=False, activation_checkpointing=False, max_length=None, disable_tqdm=True,
            save_strategy="no", dataset_kwargs={"skip_prepare_dataset": True}, seed=1,
        ),
        train_dataset=Dataset.from_list(documents(*range(5, 25))),
        processing_class=tokenizer,
        peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None,
        data_collator={"trl": None, "padded": padded, "packed": packed}[way],
    )  # fmt: skip
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    weights = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    return [step["loss"] for step in steps], weights, steps[-1]["num_tokens"]
