"""Rows laid end to end: the same losses and gradients as apart, or not done at all."""

import pytest
import torch

from dimba.trainers.chat import IGNORED
from dimba.trainers.packing import PackedBatches, PaddedBatches, balanced, probe

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # large enough for a leak to show
    "pad_token_id": 0,
}
GPT = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}


def model(name: str, attention: str = "sdpa", **options):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **options})
    config._attn_implementation = attention
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def features(*lengths: int) -> list[dict[str, list[int]]]:
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, 97, (length,), generator=draw).tolist() for length in lengths]
    return [{"input_ids": row, "labels": [IGNORED] * (len(row) // 3) + row[len(row) // 3 :]} for row in rows]


def loss_and_gradients(tiny, batch) -> tuple[float, dict[str, torch.Tensor]]:
    tiny.zero_grad()
    labels = batch.pop("labels")
    batch.pop("real_tokens")
    logits = tiny(**batch, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED)
    loss.backward()
    return loss.item(), {name: each.grad.clone() for name, each in tiny.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("name", "options"), [("Llama", {}), ("Qwen2", {}), ("Qwen3", {"head_dim": 8}), ("Mistral", {"sliding_window": 8})]
)
def test_packed_rows_have_the_losses_and_gradients_of_rows_apart(name: str, options: dict, attention: str):
    tiny, rows = model(name, attention, **options), features(23, 5, 17, 30, 11, 3)
    packed, padded = PackedBatches(pad_id=0, max_length=48)(rows), PaddedBatches(pad_id=0)(rows)
    assert packed["input_ids"].shape[0] == 2 < padded["input_ids"].shape[0]
    assert (packed["labels"] != IGNORED).sum() == (padded["labels"] != IGNORED).sum()
    (one, gradients), (other, expected) = loss_and_gradients(tiny, packed), loss_and_gradients(tiny, padded)
    assert one == pytest.approx(other, abs=1e-5)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[parameter], atol=1e-5, rtol=1e-4)


def apart_and_packed(tiny) -> float:
    """The largest difference of a token's loss, measured without the probe."""
    rows = features(12, 8)
    batch = PackedBatches(pad_id=0, max_length=20)(rows)
    assert batch["input_ids"].shape == (1, 20)
    with torch.no_grad():
        logits = tiny(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        alone = [tiny(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits for row in rows]
    return float((logits.log_softmax(-1) - torch.cat(alone, dim=1).log_softmax(-1)).abs().max())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Llama", {}),
        ("Mistral", {"sliding_window": 4}),
        ("Qwen3", {"head_dim": 8}),
        ("Phi3", {}),
        ("Gemma", {"head_dim": 8}),
        ("GPT2", GPT),
        ("GPTNeoX", {}),
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
        ("Mamba", {"state_size": 8}),
        ("Bloom", {"n_layer": 2, "n_head": 4}),
        ("GptOss", {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "attention": "eager"}),
    ],
)
def test_the_probe_says_what_a_measurement_says(name: str, options: dict):
    tiny = model(name, **{"attention": "eager" if name in ("Bloom", "Mamba") else "sdpa", **options})
    try:
        difference = apart_and_packed(tiny)
    except (TypeError, ValueError, RuntimeError):
        difference = float("inf")
    verdict = probe(tiny)
    assert verdict.exact == (difference < 1e-4), (difference, verdict)
    assert bool(verdict.why) != verdict.exact


def test_the_probe_sees_through_an_adapter_and_low_precision_and_leaves_the_model_as_it_was():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model("Llama"), LoraConfig(r=2, target_modules="all-linear"))
    adapted.train()
    assert probe(adapted).exact and adapted.training
    assert probe(model("Llama").to(torch.bfloat16)).exact
    assert not probe(model("OPT", ffn_dim=64, word_embed_proj_dim=32).to(torch.bfloat16)).exact


@pytest.mark.parametrize(
    ("lengths", "capacity", "rows"),
    [([5], 10, 1), ([5, 5], 10, 1), ([6, 6, 6], 10, 3), ([7, 4, 3, 6], 10, 2), ([3] * 8, 64, 1)],
)
def test_rows_are_few_and_none_is_too_long(lengths: list[int], capacity: int, rows: int):
    laid = balanced(lengths, capacity)
    assert len(laid) == rows and sorted(each for row in laid for each in row) == list(range(len(lengths)))
    assert all(sum(lengths[each] for each in row) <= capacity for row in laid)


def test_the_first_token_of_each_document_is_not_predicted():
    batch = PackedBatches(pad_id=0, max_length=16)([{"input_ids": [7, 8, 9], "labels": [7, 8, 9]}] * 3)
    assert batch["real_tokens"] == 9
    assert batch["labels"].tolist() == [[IGNORED, 8, 9] * 3] and batch["position_ids"].tolist() == [[0, 1, 2] * 3]
