"""Attention of documents end to end by torch's kernel: with a reference in the kernel's place, losses and gradients
equal those of rows of their own."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dimba.trainers.data.gradient_probe import probe_attention
from dimba.trainers.data.packing import collate_packed, collate_padded, document_borders
from dimba.trainers.kernels import varlen
from dimba.trainers.kernels.attending import attending, attention_of, switch_attention
from tests.trainers import reference_varlen
from tests.trainers.test_packing import EXPERTS, GPT2, LEAKS, LENGTHS, LLAMA, SLIDING, documents, gradients, tiny

pytestmark = pytest.mark.slow
SOFT_CAPS = {**LLAMA, "head_dim": 8, "sliding_window": 6}
EXACT: dict[str, dict[str, Any]] = {
    "Llama": LLAMA,
    "Qwen3": {**LLAMA, "head_dim": 8},
    "Qwen3Moe": {**LLAMA, **EXPERTS, "head_dim": 8},
    "Mistral": SLIDING,
    "Gemma3": SLIDING,
    "GPT2": {**GPT2, "attn_pdrop": 0.0},
    "OPT": LEAKS["OPT"],  # finds no documents under a mask
    "GptOss": LEAKS["GptOss"],  # the same, with sinks and windows
}


@pytest.fixture(autouse=True)
def _kernel_on_cpu() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with reference_varlen.on_cpu():
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", EXACT)
def test_losses_and_gradients_equal_those_of_separate_rows(family: str):
    model = tiny(family, EXACT[family])
    result = probe_attention(model, varlen.NAME)
    assert result.is_exact, result
    rows = documents(*LENGTHS)
    apart = gradients(model, collate_padded(rows, pad_id=0))
    scale = max(gradient.abs().max().item() for gradient in apart)
    for limit, borders in ((40, True), (1000, True), (40, False)):
        with attending(model, varlen.NAME):
            packed = gradients(model, collate_packed(rows, max_length=limit, pad_id=0, borders=borders))
        assert max((a - b).abs().max().item() for a, b in zip(apart, packed, strict=True)) < 1e-5 * max(scale, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "GptOss"])
def test_the_probe_accepts_it_in_16_bits_and_under_autocast(family: str, dtype: torch.dtype):
    assert probe_attention(tiny(family, EXACT[family]).to(dtype), varlen.NAME).is_exact
    with torch.autocast("cpu", dtype):
        assert probe_attention(tiny(family, EXACT[family]), varlen.NAME).is_exact


@pytest.mark.parametrize(
    ("family", "shape"),
    [("Gemma2", SOFT_CAPS), ("Falcon", LEAKS["Falcon"]), ("Llama", {**LLAMA, "attention_dropout": 0.1})],
)
def test_soft_caps_biases_and_dropout_are_refused(family: str, shape: dict[str, Any]):
    model = tiny(family, shape)
    before = attention_of(model)
    result = probe_attention(model, varlen.NAME)
    assert not result.is_exact and result.reason
    assert attention_of(model) == before and not model.training


def _without(*names: str) -> Any:
    """The attention, deaf to some of its arguments."""

    def attend(module: Any, *states: Any, **given: Any) -> Any:
        return varlen.attend(module, *states, **{**given, **dict.fromkeys(names)})

    return attend


def _with_a_wider_window(module: Any, query: Any, key: Any, value: Any, mask: Any, **given: Any) -> Any:
    size = given["sliding_window"] + 1
    return varlen.attend(module, query, key, value, varlen.Window(size), **{**given, "sliding_window": size})


def _with_half_the_gradient(module: Any, query: Any, *states: Any, **given: Any) -> Any:
    return varlen.attend(module, query.detach() / 2 + query / 2, *states, **given)


def _with_other_borders(module: Any, *states: Any, **given: Any) -> Any:
    borders = given["cu_seq_lens_q"].clone()
    borders[1:-1] -= 1
    return varlen.attend(module, *states, **{**given, "cu_seq_lens_q": borders, "max_length_q": 64})


def _in_three_digits(module: Any, query: Any, *states: Any, **given: Any) -> Any:
    return varlen.attend(module, query.half().float() * 1.01, *states, **given)


@pytest.mark.parametrize(
    ("family", "wrong"),
    [
        ("Mistral", _with_a_wider_window),
        ("GptOss", _without("s_aux")),
        ("Llama", _without("scaling")),
        ("Llama", _with_other_borders),
        ("Llama", _with_half_the_gradient),
        ("Llama", _in_three_digits),
    ],
    ids=["wider window", "no sinks", "default scale", "other borders", "half the gradient", "three digits"],
)
def test_the_probe_finds_an_attention_that_is_nearly_right(family: str, wrong: Any, monkeypatch: pytest.MonkeyPatch):
    model = tiny(family, EXACT[family])
    if family == "Llama":  # so that the scale is not the default one
        for layer in model.model.layers:
            layer.self_attn.scaling = 0.2
    monkeypatch.setitem(varlen.AttentionInterface._global_mapping, varlen.NAME, wrong)
    result = probe_attention(model, varlen.NAME)
    assert not result.is_exact and result.reason


def test_borders_are_those_of_the_documents_and_the_longest():
    batch = collate_packed(documents(3, 5, 2, 4), max_length=8, pad_id=0, borders=True)
    assert batch["input_ids"].shape == (2, 7)
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 7, 11, 14] and batch["cu_seq_lens_q"].dtype == torch.int32
    assert (batch["max_length_q"], batch["max_length_k"]) == (5, 5)
    assert "max_length_q" not in collate_packed(documents(3, 5), max_length=8, pad_id=0)


def test_all_layers_of_a_forward_pass_share_one_search_for_documents(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    monkeypatch.setattr(varlen, "document_borders", lambda ids: calls.append(1) or document_borders(ids))
    model = tiny("Llama", {**LLAMA, "num_hidden_layers": 3})
    batch = collate_packed(documents(5, 7), max_length=12, pad_id=0)
    with attending(model, varlen.NAME), torch.no_grad():
        for _ in range(2):
            model(input_ids=batch["input_ids"], position_ids=batch["position_ids"].clone(), use_cache=False)
    assert len(calls) == 2


def test_padded_rows_are_refused():
    batch = collate_padded(documents(3, 5), pad_id=0)
    model = tiny("Llama", LLAMA)
    switch_attention(model, varlen.NAME)
    with pytest.raises(ValueError, match="rows are padded"):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


def test_heads_of_any_size_are_padded_to_one_that_the_kernel_has():
    states = [torch.randn(1, heads, 9, size) for heads, size in ((4, 12), (2, 12), (2, 6))]
    layout = {"cu_seq_lens_q": torch.tensor([0, 4, 9], dtype=torch.int32), "max_length_q": 5}
    found, _ = varlen.attend(torch.nn.Module(), *states, None, **layout)
    query, key, value = (each.repeat_interleave(4 // each.shape[1], dim=1) for each in states)
    parts = [(each[:, :, :4], each[:, :, 4:]) for each in (query, key, value)]
    expected = [
        torch.nn.functional.scaled_dot_product_attention(*each, is_causal=True) for each in zip(*parts, strict=True)
    ]
    assert found.shape == (1, 9, 4, 6)
    torch.testing.assert_close(found, torch.cat(expected, dim=2).transpose(1, 2))


def test_a_torch_without_windows_and_scales_does_not_have_the_kernel(monkeypatch: pytest.MonkeyPatch):
    assert varlen.is_available()
    monkeypatch.setattr(varlen, "_PARAMETERS", frozenset({"query", "is_causal"}))  # torch 2.10
    assert not varlen.is_available()
