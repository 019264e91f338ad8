"""DIMBA's block against the naive one of two mixers of transformers, on the CPU; and its memory against the estimate.

    PYTHONPATH=. OMP_NUM_THREADS=1 python scripts/bench/dimba_model.py [--rounds 7] [--threads 1] [--memory]

The naive block differs in its mixers alone: transformers' own forward pass on the row, and on the flipped row. Both
take turns, forward and backward, and the ratio is that of CPU seconds, as the median of the rounds: for the two mixers,
and for the block, whose norms and SwiGLU are the same in both. The chunks of transformers have 256 tokens, to which it
fills rows up: a multiple of 256 is its best case. `products` is the ratio of a block whose mixers were their two
projections alone, which nothing can exceed. `--memory` compares `dimba plan`'s estimate with
a trace of a step on fake tensors; with a small vocabulary, as the trace's head is not the trainers'.
"""

import argparse
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dimba.host.checkpoint import facts_of_tensors
from dimba.models.dimba import DimbaConfig, DimbaForMaskedLM, DimbaModel, modeling
from dimba.models.dimba.mixing import mix as mix_of_both
from dimba.objectives.families import DIMBA
from dimba.objectives.sft import SftOptions
from dimba.options.checkpointing import checkpointing_of
from dimba.plan.job import resolved
from dimba.plan.memory import estimate_memory
from dimba.plan.share import Share
from dimba.spec import JobSpec
from scripts.bench.tracing import Live, adapted, as_on_cuda, fake

SHAPES = ((16, 64), (8, 100), (4, 200), (4, 300), (2, 512), (1, 1024), (1, 2048), (32, 32))  # rows × tokens
_MIB = 1 << 20
Mix = Callable[..., torch.Tensor]


def naive(forward: Any, backward: Any, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Two mixers of transformers, as they are."""
    other = None if mask is None else mask.flip(1)
    flipped = backward(hidden.flip(1), attention_mask=other).flip(1)
    return forward(hidden, attention_mask=mask) + flipped


def block() -> Any:
    torch.manual_seed(0)
    layer = DimbaForMaskedLM(DimbaConfig(vocab_size=64, num_layers=1)).model.layers[0]
    torch.nn.init.normal_(layer.modulation.weight, std=0.02)
    return layer.train()


def products(forward: Any, backward: Any, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The projections of two mixers, with nothing between them."""
    inner = forward.intermediate_size
    flipped = backward.out_proj(backward.in_proj(hidden.flip(1))[..., :inner]).flip(1)
    return forward.out_proj(forward.in_proj(hidden)[..., :inner]) + flipped


def seconds(layer: Any, mix: Mix, hidden: torch.Tensor, condition: torch.Tensor) -> tuple[float, float]:
    """CPU seconds of a forward and a backward pass: of the two mixers, and of the block."""
    with mock.patch.object(modeling, "mix", mix):
        began = time.process_time()
        mix(layer.mixer_forward, layer.mixer_backward, hidden, None).square().mean().backward()
        mixed = time.process_time()
        layer(hidden, condition, None).square().mean().backward()
        return mixed - began, time.process_time() - mixed


def kept(layer: Any, mix: Mix, hidden: torch.Tensor, condition: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, without the weights."""
    weights = {each.untyped_storage().data_ptr() for each in layer.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with mock.patch.object(modeling, "mix", mix), torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each):
        output = layer(hidden, condition, None)
        assert output.requires_grad
        return sum(found.values())


def compare(rows: int, length: int, rounds: int) -> str:
    layer, ways = block(), (mix_of_both, naive, products)
    hidden = torch.randn(rows, length, 576, requires_grad=True)
    condition = torch.randn(rows, 512)
    for mix in ways:
        seconds(layer, mix, hidden, condition)
    found = [[seconds(layer, mix, hidden, condition) for mix in ways] for _ in range(rounds)]
    mixers, blocks = ([theirs[part] / ours[part] for ours, theirs, _ in found] for part in (0, 1))
    most = statistics.median(theirs[1] / least[1] for _, theirs, least in found)
    memory = [kept(layer, mix, hidden, condition) / _MIB for mix in ways[:2]]
    ratios = f"mixers {_spread(mixers)}   block {_spread(blocks)}, products {most:.2f}"
    return f"{rows:>3} × {length:<5} {ratios}   kept {memory[0]:5.0f} MiB, naive {memory[1]:5.0f} MiB"


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):5.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"


def _loss(model: Any, ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, t=t, attention_mask=torch.ones_like(ids)).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten())


def traced(config: DimbaConfig, method: str, way: str, rows: int, length: int) -> tuple[Live, Any]:
    """The peak of a step's forward and backward pass, and the facts of the checkpoint."""
    from dimba.trainers.models.recompute import LayerCheckpointing

    with torch.device("meta"):
        model = DimbaForMaskedLM(config)
    tensors = {name: {"shape": list(each.shape), "dtype": "BF16"} for name, each in model.named_parameters()}
    model = model if method == "full" else model.to(torch.bfloat16)
    options = SftOptions(base_checkpoint="", dataset="", output_dir="", use_lora=method == "lora", lora_r=16)
    args = Namespace(**asdict(options))
    args.checkpointing = checkpointing_of(way)
    LayerCheckpointing(model, args.checkpointing)
    trained = adapted(model, args)
    if args.checkpointing.layers != 0:
        trained.activation_checkpointing_enable()
    trained.train()
    live = Live()
    given = mock.patch.object(DimbaModel, "_time", lambda _self, t, *_: t)  # fake tensors have no values to check
    with FakeTensorMode(allow_non_fake_inputs=True), live, as_on_cuda(), given:
        fake(trained)
        parameters = [each for each in trained.parameters() if each.requires_grad]
        for each in parameters:
            each.data = each.data.float()
        optimizer = torch.optim.AdamW(parameters, fused=True)
        for each in parameters:
            each.grad = torch.zeros_like(each)
        optimizer.step()
        optimizer.zero_grad()
        live.peak = 0
        _loss(trained, torch.zeros((rows, length), dtype=torch.long), torch.zeros(rows)).backward()
    return live, facts_of_tensors(config.to_dict(), tensors)


def estimate(facts: Any, method: str, way: str, rows: int, length: int) -> Any:
    training = {"batch_size": rows, "max_length": length}
    values = {"version": 1, "mode": "sft", "method": method, "base_checkpoint": "base", "training": training}
    values |= {"dataset": {"path": "rows.jsonl"}, "lora": {"r": 16, "alpha": 32}}
    checkpointing = checkpointing_of(way)
    assert checkpointing
    share = Share(batch_size=rows, accumulation=1, checkpointing=checkpointing, family=DIMBA)
    return estimate_memory(resolved(JobSpec.model_validate(values)), facts, on_cpu=False, share=share)


def memory() -> None:
    nano = DimbaConfig(num_layers=6, vocab_size=2048)
    wide = DimbaConfig(vocab_size=2048, d_model=1024, num_layers=4, d_state=128, ffn_dim=2816)
    for name, config in (("6 of nano", nano), ("4 wide", wide)):
        for method in ("full", "lora"):
            for way in ("on", "off"):
                for rows, length in ((2, 512), (8, 96)):
                    live, facts = traced(config, method, way, rows, length)
                    found = estimate(facts, method, way, rows, length)
                    expected = found.total - found.context - found.fragments
                    line = f"{name} {method:<5} {way:<4} {rows} × {length:<5} {expected / _MIB:>8,.0f} MiB estimated"
                    print(f"{line} {live.peak / _MIB:>8,.0f} traced  {expected / live.peak:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="compare the memory estimate with traces instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        return memory()
    for rows, length in SHAPES:
        print(compare(rows, length, args.rounds), flush=True)
    return None


if __name__ == "__main__":
    main()
