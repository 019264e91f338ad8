"""Rows divided among ranks: the losses, gradients and weights of one process, over gloo."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import write_rows
from tests.trainers.forked_ranks import on_ranks
from tests.trainers.test_sft import run as train_here
from tests.weights import largest_difference

LENGTHS = (13, 5, 29, 7, 11)  # tokens of the documents; parts of rows end within them
FLAGS = ["--device", "cpu", "--num-epochs", "3", "--batch-size", "2", "--learning-rate", "1e-3", "--max-length", "64"]
FLAGS += ["--validation-split", "3", "--save-steps", "2", "--save-total-limit", "9"]
SHARED = ["--grad-accumulation-steps", "2", "--sequence-parallel", "2"]


def gradients(heads: int, keys: int, packed: bool) -> tuple[float, float, float]:
    """(loss of complete rows, of divided rows, largest difference of a gradient) on the ranks at hand."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from dimba.trainers.data.division import divide
    from dimba.trainers.data.packing import collate_packed, collate_padded
    from dimba.trainers.kernels.attending import switch_attention
    from dimba.trainers.kernels.head import add_head
    from dimba.trainers.kernels.sequence import NAME
    from dimba.trainers.objectives.sft.division_proof import own_group

    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=heads, num_key_value_heads=keys)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    add_head(model, on_cpu=True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    documents = [torch.randint(97, (length,)).tolist() for length in LENGTHS]
    rows = [{"input_ids": each, "labels": [-100] * 3 + each[3:]} for each in documents]
    padded = collate_padded(rows, pad_id=0)
    found = []
    group = own_group(torch.distributed.get_world_size())
    layout = collate_packed(rows, max_length=40, pad_id=0) if packed else padded
    for inputs, attention in (({**padded, "tokens": None}, "sdpa"), (divide(layout, group), NAME)):
        switch_attention(model, attention)
        inputs.pop("tokens", None)
        loss = -model(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum()
        loss.backward()
        flat = torch.cat([each.grad.flatten() for each in model.parameters()])
        model.zero_grad()
        found.append((loss.detach(), flat))
    (complete, expected), (divided, actual) = found
    torch.distributed.all_reduce(divided)
    torch.distributed.all_reduce(actual)
    return complete.item(), divided.item(), ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(("ranks", "heads", "keys"), [(2, 4, 4), (2, 4, 2), (2, 4, 1), (4, 4, 2)])
def test_divided_rows_have_the_loss_and_gradients_of_complete_ones(
    tmp_path: Path, ranks: int, heads: int, keys: int, packed: bool
):
    for complete, divided, difference in on_ranks(ranks, partial(gradients, heads, keys, packed), tmp_path / "ranks"):
        assert divided == pytest.approx(complete, rel=1e-6)
        assert difference < 1e-6


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: tmp_path / "tokens")
    return write_rows(tmp_path / "data.jsonl", [{"prompt": f"Count to {n}", "response": "1" * n} for n in range(1, 14)])


def logged(folder: Path, name: str) -> list[float]:
    """The values of a metric, in the order of their steps."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


@pytest.mark.proof
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="full"),
        pytest.param(("--use-lora", "--packing", "off", "--activation-checkpointing", "on"), id="LoRA, padded"),
    ],
)
def test_ranks_that_share_rows_train_the_weights_of_one_process_and_resume_exactly(
    tiny_checkpoint: Path, rows: Path, tmp_path: Path, flags: tuple[str, ...]
):
    one, two, resumed = (tmp_path / name for name in ("one", "two", "resumed"))
    train_here(tiny_checkpoint, rows, one, *FLAGS, *flags, "--grad-accumulation-steps", "4")
    work = partial(train_here, tiny_checkpoint, rows, two, *FLAGS, *flags, *SHARED)
    output, _ = on_ranks(2, work, tmp_path / "ranks")
    assert "rows are divided among 2 ranks, proved on this model" in output
    assert len(logged(one, "loss")) == 6 and largest_difference(one, two) < 1e-6
    for name in ("loss", "eval_loss", "grad_norm"):
        assert logged(two, name) == pytest.approx(logged(one, name), rel=1e-5)
    assert logged(two, "num_tokens") == logged(one, "num_tokens"), "without padding, each token once"
    shutil.copytree(two / "checkpoint-2", resumed / "checkpoint-2")
    again = ("--resume-from-checkpoint", str(resumed))
    on_ranks(2, partial(train_here, tiny_checkpoint, rows, resumed, *FLAGS, *flags, *SHARED, *again), tmp_path / "more")
    assert largest_difference(two, resumed) == 0


def train_without_exchange(*arguments: object) -> str:
    from dimba.trainers.kernels import sequence

    sequence._exchanged = lambda parts, handle: parts.contiguous()
    return train_here(*arguments, status=2)


def test_divided_rows_that_train_differently_are_refused_before_the_first_step(
    tiny_checkpoint: Path, rows: Path, tmp_path: Path
):
    work = partial(train_without_exchange, tiny_checkpoint, rows, tmp_path / "out", *FLAGS, *SHARED)
    output, _ = on_ranks(2, work, tmp_path / "ranks")
    assert "rows divided among 2 ranks train differently from complete ones: losses differ by up to" in output
    assert "hint: leave out `accelerate.sequence_parallel`" in output and "step 1/" not in output
