"""The head over trained tokens only, and attention within documents, give the numbers of the full computation."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.packing import collate_packed, collate_padded
from dimba.trainers.kernels import head
from dimba.trainers.kernels.documents import NAME, use_document_attention
from dimba.trainers.kernels.head import add_head
from tests.trainers.test_packing import EXPERTS, LENGTHS, LLAMA, SLIDING, documents, gradients, largest_difference, tiny

pytestmark = pytest.mark.filterwarnings("ignore")


def score(model: Any, batch: dict[str, torch.Tensor]) -> tuple[list[float], list[torch.Tensor], Any]:
    """Losses of the trained tokens and the gradients of their sum."""
    model.zero_grad()
    inputs = {name: value for name, value in batch.items() if name != "tokens"}
    output = model(**inputs, use_cache=False, fused_lm_head=True)
    (-output.log_probs.sum()).backward()
    losses = [value for value in output.log_probs.detach().flatten().tolist() if value]
    return sorted(losses), [each.grad.clone() for each in model.parameters() if each.grad is not None], output


@pytest.mark.parametrize("at_once", [1 << 26, 96 * 7])
@pytest.mark.parametrize("family", ["Llama", "GPT2", "GPTNeoX", "Qwen3"])
def test_the_head_over_trained_tokens_has_the_losses_and_gradients_of_the_full_head(
    family: str, at_once: int, monkeypatch: pytest.MonkeyPatch
):
    from tests.trainers.test_packing import PACKS

    monkeypatch.setattr(head, "_AT_ONCE", at_once)
    theirs, ours = (tiny(family, PACKS[family]) for _ in range(2))
    add_fused_lm_head(theirs, outputs=("log_probs",))
    add_head(ours, on_cpu=True)
    assert "_add_scoring" in ours.forward.__code__.co_qualname
    batch = collate_padded(documents(*LENGTHS), pad_id=0)
    (expected, wanted, all_tokens), (losses, found, trained) = score(theirs, batch), score(ours, batch)
    assert losses == pytest.approx(expected, abs=1e-6)
    assert int(trained.label_mask.sum()) == int(all_tokens.label_mask.sum()) == len(losses)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("Cohere", {"logit_scale": 0.25}),
        ("Granite", {"logits_scaling": 8.0}),
        ("Gemma2", {"head_dim": 8}),
        ("Qwen3Moe", {**EXPERTS, "head_dim": 8, "output_router_logits": True}),
    ],
)
def test_models_with_scaled_capped_or_routed_logits_get_trls_head(family: str, more: dict[str, Any]):
    model = tiny(family, {**LLAMA, **more})
    batch = collate_padded(documents(*LENGTHS), pad_id=0)
    labels, mask = batch["labels"][:, 1:], batch["labels"][:, 1:] != IGNORED
    plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    add_head(model, on_cpu=True)
    assert "add_fused_lm_head" in model.forward.__code__.co_qualname
    expected = -torch.nn.functional.cross_entropy(plain[mask], labels[mask], reduction="none")
    assert score(model, batch)[0] == pytest.approx(sorted(expected.tolist()), abs=1e-4)


def test_a_batch_without_a_trained_token_has_gradients_of_zero():
    model = tiny("Llama", LLAMA)
    add_head(model, on_cpu=True)
    batch = {name: torch.full((1, 5), value) for name, value in (("input_ids", 7), ("labels", IGNORED))}
    losses, found, _ = score(model, batch)
    assert losses == [] and found and not any(each.abs().max() for each in found)


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Qwen3Moe", "GPT2", "GPTNeoX", "OPT"])
def test_attention_within_documents_is_exact_in_one_row_and_in_several_rows(family: str):
    from tests.trainers.test_packing import LEAKS, PACKS

    shape = {**PACKS, **LEAKS}[family]
    model = tiny(family, shape)
    assert use_document_attention(model).is_exact and model.config._attn_implementation == NAME
    assert largest_difference(model) < 1e-5
    rows = documents(*LENGTHS)
    separate = gradients(tiny(family, shape), collate_padded(rows, pad_id=0))
    for limit in (40, 1000):
        packed = gradients(model, collate_packed(rows, max_length=limit, pad_id=0))
        scale = max(gradient.abs().max().item() for gradient in separate)
        assert max((a - b).abs().max().item() for a, b in zip(separate, packed, strict=True)) < 1e-5 * max(scale, 1)


@pytest.mark.parametrize(
    ("family", "shape"),
    [("Mistral", SLIDING), ("Gemma3", SLIDING), ("Gemma2", {**LLAMA, "head_dim": 8}), ("Falcon", None)],
)
def test_models_with_a_window_or_other_scores_keep_their_own_attention(family: str, shape: dict[str, Any] | None):
    from tests.trainers.test_packing import LEAKS

    model = tiny(family, shape or LEAKS[family])
    before = model.config._attn_implementation
    assert not use_document_attention(model).is_exact
    assert model.config._attn_implementation == before


def test_the_attention_used_for_training_is_not_saved_in_config_json(tmp_path: Any):
    model = tiny("Llama", LLAMA)
    assert use_document_attention(model).is_exact
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("family", ["Llama", "GPT2", "GPTNeoX", "Qwen3", "OPT", "Gemma"])
def test_the_last_mlp_over_trained_tokens_changes_no_loss_and_no_gradient(family: str, monkeypatch: pytest.MonkeyPatch):
    from tests.trainers.test_packing import LEAKS, PACKS

    shape = {**PACKS, **LEAKS, "Gemma": {**LLAMA, "head_dim": 8}}[family]
    limited, whole = tiny(family, shape), tiny(family, shape)
    words = add_head(limited, on_cpu=True)
    assert words.startswith("the head" if family == "OPT" else "the last MLP and the head")
    monkeypatch.setattr(head.LastMlp, "only", lambda *_: nullcontext())
    add_head(whole, on_cpu=True)
    batch = collate_padded(documents(*LENGTHS), pad_id=0)
    (expected, wanted, _) = score(whole, batch)
    monkeypatch.undo()
    tokens = seen_by(last_mlp(limited))
    (losses, found, _) = score(limited, batch)
    assert tokens[0] == len(losses) if family != "OPT" else not tokens
    assert losses == pytest.approx(expected, abs=1e-6)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, wanted, strict=True))


def last_mlp(model: Any) -> Any:
    stack = next(each for each in model.modules() if isinstance(each, torch.nn.ModuleList))
    return getattr(stack[-1], "mlp", None)


def seen_by(mlp: Any) -> list[int]:
    """Filled with the number of tokens that the first matrix of an MLP computes."""
    seen: list[int] = []
    first = next((each for each in mlp.modules() if hasattr(each, "weight")), None) if mlp is not None else None
    if first is not None:
        first.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[:-1].numel()))
    return seen


def test_the_last_mlp_computes_every_token_outside_of_the_loss_and_where_it_is_recomputed():
    model = tiny("Llama", LLAMA)
    add_head(model, on_cpu=True)
    batch = collate_padded(documents(*LENGTHS), pad_id=0)
    tokens, every = seen_by(last_mlp(model)), batch["input_ids"].numel()
    model(input_ids=batch["input_ids"])
    model.gradient_checkpointing_enable()
    model.train()
    score(model, batch)
    assert set(tokens) == {every}


def test_a_last_mlp_whose_tokens_meet_is_left_as_it_is():
    model = tiny("Llama", LLAMA)
    mlp = last_mlp(model)
    original = mlp.forward
    mlp.forward = lambda states: original(states - states.mean(dim=-2, keepdim=True))
    add_head(model, on_cpu=True)
    batch = collate_padded(documents(*LENGTHS), pad_id=0)
    tokens = seen_by(mlp)
    score(model, batch)
    assert tokens[0] == batch["input_ids"].numel()
