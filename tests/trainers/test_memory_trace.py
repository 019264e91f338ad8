"""The estimate equals the trainers' own step, traced with fake tensors by `scripts/bench/memory.py`, on few layers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def _case(*what: Any, **more: Any) -> Any:
    from scripts.bench.memory import Case

    return Case(*what, **more)


CASES = [
    ("llama-8B", "full", 1, 512, {"accumulation": 1}),
    ("qwen3-0.6B", "lora", 1, 8192, {}),
    ("gemma-2B", "full", 2, 1024, {"mode": "grpo"}),
    ("llama-8B", "full", 2, 1024, {"mode": "dpo"}),
    ("llama-8B", "full", 1, 2048, {"checkpointing": "off"}),
    ("mistral-7B", "qlora", 1, 256, {}),
    ("llama-8B", "lora", 64, 1024, {"mode": "grpo", "prompt": 768}),
    ("qwen3-0.6B", "lora", 2, 1024, {"lora": (("use_dora", True),)}),
    ("llama-1B", "lora", 2, 2048, {"checkpointing": 1}),
    ("llama-8B", "lora", 2, 1024, {"lora": (("target_modules", ["q_proj", "v_proj"]),), "checkpointing": "off"}),
    ("llama-1B", "qlora", 2, 1024, {"lora": (("modules_to_save", ["lm_head"]),), "checkpointing": "off"}),
]
MORE_CASES = [
    ("llama-8B", "full", 1, 8192, {}),
    ("qwen3-0.6B", "full", 4, 2048, {"checkpointing": 2}),
    ("llama-8B", "full", 1, 8192, {"checkpointing": "offload"}),
    ("llama-1B", "qlora", 2, 1024, {"mode": "dpo", "checkpointing": 2}),
    ("llama-1B", "lora", 1, 8192, {"checkpointing": "offload"}),
    ("llama-8B", "lora", 4, 2048, {}),
    ("llama-1B", "full", 8, 1024, {}),
    ("qwen2-0.5B", "lora", 8, 1024, {"mode": "grpo"}),
    ("qwen3-0.6B", "lora", 2, 1024, {"mode": "dpo", "checkpointing": "off"}),
    ("llama-8B", "lora", 2, 2048, {"checkpointing": "off"}),
    ("qwen3-0.6B", "full", 2, 2048, {"checkpointing": "off"}),
    ("llama-8B", "qlora", 1, 4096, {"checkpointing": "off"}),
    ("qwen3-0.6B", "full", 64, 1024, {"mode": "grpo", "prompt": 768}),
    ("llama-1B", "qlora", 16, 4096, {"mode": "grpo", "prompt": 64}),
    ("llama-1B", "lora", 2, 1024, {"lora": (("dropout", 0.1),), "checkpointing": "off"}),
    ("llama-8B", "lora", 2, 1024, {"lora": (("modules_to_save", ["embed_tokens", "lm_head"]),)}),
    ("llama-8B", "lora", 2, 1024, {"lora": (("trainable_tokens", ["<|end|>"]),)}),
]


@pytest.fixture(autouse=True)
def _few_layers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from scripts.bench import memory

    small = {name: (kind, {**numbers, "num_hidden_layers": 3}) for name, (kind, numbers) in memory.MODELS.items()}
    monkeypatch.setattr(memory, "MODELS", small)
    return


@pytest.mark.parametrize(
    ("model", "method", "batch", "length", "more"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.proof) for case in MORE_CASES)],
)
def test_the_traced_peak_is_close_to_the_estimate(
    model: str, method: str, batch: int, length: int, more: dict[str, Any]
):
    from scripts.bench.memory import compared

    estimated, live, estimate = compared(_case(model, method, batch, length, **more))
    assert 0.95 <= estimated / live.peak <= 1.10, (estimate.peak, live.peak_phase)


@pytest.mark.parametrize(
    ("model", "method", "way", "more"),
    [
        ("LLaDA, 4 layers", "lora", "on", {}),
        pytest.param("LLaDA, 4 layers", "lora", "on", {"mode": "dpo"}, marks=pytest.mark.proof),
        pytest.param("LLaDA, 4 layers", "lora", "on", {"mode": "grpo"}, marks=pytest.mark.proof),
        ("LLaDA, 4 layers", "lora", "on", {"mode": "grpo", "guidance": 1.0}),
        pytest.param("nano, 6 layers", "lora", "on", {}, marks=pytest.mark.proof),
        pytest.param("Dream, 4 layers", "full", "off", {}, marks=pytest.mark.proof),
    ],
)
def test_the_traced_peak_of_masked_diffusion_is_close_to_the_estimate(
    model: str, method: str, way: str, more: dict[str, Any]
):
    from scripts.bench.masked_memory import Case, compared

    estimated, live, estimate = compared(Case(model, method, way, 4, 512, **more))
    assert 0.95 <= estimated / live.peak <= 1.10, (estimate.peak, live.peak_phase)


def test_only_one_nf4_matrix_is_unpacked_at_the_peak():
    from scripts.bench.memory import compared

    _, live, _ = compared(_case("llama-8B", "qlora", 1, 512))
    unpacked = [size for size, shape, *_ in live.at_peak.values() if shape in ((4096, 14336), (14336, 4096))]
    assert unpacked == [4096 * 14336 * 2]


def test_the_estimate_includes_the_complete_cache_of_keys_and_values():
    from scripts.bench.memory import compared

    _, live, estimate = compared(_case("llama-8B", "lora", 64, 1024, mode="grpo", prompt=8))
    vectors = [size for size, shape, *_ in live.at_peak.values() if shape == (64, 8, 1024, 128)]
    assert sum(vectors) == estimate.cache == 3 * 2 * 64 * 8 * 1024 * 128 * 2


def test_ddp_holds_gradients_twice(tmp_path: Path):
    """Uses real tensors, because the reducer of DDP writes to its buckets."""
    import torch
    from torch import distributed

    from scripts.bench.tracing import Live

    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with Live() as live:
            layers = [torch.nn.Linear(256, 256, bias=False) for _ in range(20)]
            weights = live.now
            model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers))
            for _ in range(2):  # DDP rebuilds its buckets after it has seen the order of gradients
                live.peak = 0
                model(torch.ones(1, 256)).sum().backward()
                assert 3 * weights <= live.peak < 3.1 * weights, "weights, gradients and buckets"
    finally:
        distributed.destroy_process_group()


def test_a_trace_counts_live_tensors_only():
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from scripts.bench.tracing import Live

    live = Live()
    with FakeTensorMode(), live:
        first = torch.empty(1024, dtype=torch.float32)
        view = first[:10]
        second = first * 2
        del second
        third = first + 1
        assert live.now == 2 * 4096 and live.peak == 2 * 4096
        del first, third
        assert live.now == 4096 and view.numel() == 10
        del view
    assert (live.now, live.peak) == (0, 2 * 4096)


def test_an_unknown_shape_gives_a_lower_bound():
    from scripts.bench.memory import MODELS, estimated, model_of

    case = _case("llama-8B", "full", 1, 512)
    assert MODELS["llama-8B"][1]["num_hidden_layers"] == 3
    _, facts = model_of(case)
    assert facts.shape and estimated(case, replace(facts, shape=None)).lower_bound
