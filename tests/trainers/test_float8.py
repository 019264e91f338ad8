"""Matrix products in float8: refusals, wiring, and torchao's own layers where it is installed.

pip install --target FOLDER --no-deps torchao
PYTHONPATH=FOLDER:. pytest tests/trainers/test_float8.py
"""

import contextlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dimba.common.errors import BadInput
from dimba.objectives.grpo import GRPO
from dimba.objectives.sft import SFT
from dimba.trainers.kernels import choice, float8
from dimba.trainers.kernels.float8 import Float8Linears, use_float8
from dimba.trainers.kernels.proof import Proof, prove
from dimba.trainers.kernels.step_time import Job
from tests.trainers.test_packing import LLAMA, tiny

OPTIONS = SFT.parse(["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", "out", "--float8"])
SHAPE = {**LLAMA, "head_dim": 16}
CUDA = torch.device("cuda", 0)
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")


def job(model: Any, device: torch.device = CUDA, reference: Any = None, **given: Any) -> Job:
    accelerator = SimpleNamespace(autocast=contextlib.nullcontext)
    args = SimpleNamespace(device=device)
    trainer = SimpleNamespace(args=args, model=model, ref_model=reference, accelerator=accelerator)
    return Job(trainer, dict, replace(OPTIONS, **given), "no")  # type: ignore[arg-type]


class Linear(nn.Linear):
    """Stands in for torchao's layer: rounds its input and weight to float8, and passes gradients on as they are."""

    scale = 1.0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.linear(_rounded(states), _rounded(self.weight), self.bias)


def _rounded(value: torch.Tensor) -> torch.Tensor:
    return value + (value.to(torch.float8_e4m3fn).to(value.dtype) - value).detach()


@dataclass(frozen=True)
class Config:
    """The part of torchao's configuration that a job sets."""

    pad_inner_dim: bool = False
    emulate: bool = False

    @staticmethod
    def from_recipe_name(name: str) -> "Config":
        assert name == "tensorwise"
        return Config()


def _convert(module: nn.Module, *, config: Config, module_filter_fn: Callable[[nn.Module, str], bool]) -> None:
    assert config.pad_inner_dim
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if module_filter_fn(child, name):
                new = Linear(child.in_features, child.out_features, bias=False, device="meta")
                new.weight, new.bias = child.weight, child.bias
                setattr(parent, name, new)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torchao, and for a GPU that has such products."""
    made = ModuleType("torchao.float8")
    made.Float8LinearConfig, made.convert_to_float8_training = Config, _convert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", made)
    monkeypatch.setattr(float8, "find_spec", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))


def kinds(model: Any) -> set[str]:
    return {name.rpartition(".")[2] for name, each in model.named_modules() if isinstance(each, Linear)}


def test_linear_layers_of_blocks_compute_in_float8_and_keep_their_weights(gpu: None):
    model, reference = tiny("Llama", SHAPE), tiny("Llama", SHAPE)
    before = {name: each.data_ptr() for name, each in model.state_dict().items()}
    words = use_float8(job(model, reference=reference))
    assert words.startswith("float8: 14 linear layers, tensorwise (within ")
    assert {name: each.data_ptr() for name, each in model.state_dict().items()} == before
    assert kinds(model) == kinds(reference) == {f"{each}_proj" for each in ("q", "k", "v", "o", "gate", "up", "down")}


def test_layers_whose_sides_16_does_not_divide_keep_their_precision(gpu: None):
    model = tiny("Llama", {**SHAPE, "intermediate_size": 40})
    assert "float8: 8 linear layers" in use_float8(job(model))


def test_products_that_train_differently_end_the_job_with_the_models_own_layers(
    gpu: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Linear, "scale", 1.25)
    model = tiny("Llama", SHAPE)
    with pytest.raises(BadInput, match="differ by") as caught:
        use_float8(job(model))
    assert caught.value.hint == "leave out `--float8`" and not kinds(model)


def test_a_job_that_cannot_have_float8_is_refused_with_the_first_reason(gpu: None, monkeypatch: pytest.MonkeyPatch):
    def refusal(device: torch.device = CUDA, **given: Any) -> str:
        with pytest.raises(BadInput) as caught:
            use_float8(job(None, device, **given))
        assert caught.value.key == "--float8"
        return f"{caught.value.detail}; {caught.value.hint}"

    assert refusal(sequence_parallel=2).startswith("ranks share each row")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert refusal().startswith("the model is sharded")
    monkeypatch.setattr(float8, "find_spec", lambda _: None)
    assert refusal() == "torchao is not installed; `pip install --no-deps torchao` where the job runs"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    assert refusal().startswith("this GPU has compute capability 8.6: products in float8 begin with 8.9")
    assert refusal(torch.device("cpu")).startswith("products in float8 are for GPUs")
    assert "without an adapter" in refusal(torch.device("cpu"), use_lora=True)


def test_a_model_without_a_layer_that_fits_and_a_torchao_that_does_not_import_are_refused(
    gpu: None, monkeypatch: pytest.MonkeyPatch
):
    model = tiny("GPT2", {"vocab_size": 96, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64})
    with pytest.raises(BadInput, match="no layer of the model fits"):
        use_float8(job(model))
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(BadInput, match=r"torchao: ModuleNotFoundError"):
        use_float8(job(model))


def test_a_trainer_uses_float8_after_its_kernels_only_if_asked(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(choice, "choose_kernels", lambda _: "kernels: own")
    monkeypatch.setattr(choice, "use_float8", lambda _: "float8: 14 linear layers")
    monkeypatch.setattr(choice, "_is_on_cuda", lambda _: True)
    monkeypatch.setattr(choice, "meter_of", lambda _: None)
    choice.use_quickest_kernels(job(None, float8=False))
    assert capsys.readouterr().out == "kernels: own\n"
    choice.use_quickest_kernels(job(None))
    assert capsys.readouterr().out == "kernels: own\nfloat8: 14 linear layers\n"


def test_grpo_has_no_float8(capsys: Any):
    with pytest.raises(SystemExit):
        GRPO.parse(["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", "out", "--float8"])
    assert "--float8" in capsys.readouterr().err


@needs_torchao
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2", "Phi3"])
def test_torchaos_layers_train_alike_and_save_ordinary_weights(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = tiny(family, SHAPE)
    model.save_pretrained(tmp_path / "own")
    layers = Float8Linears(model, emulate=True)
    assert _proof(model, layers).is_equal
    layers.use()
    model.save_pretrained(tmp_path / "float8")
    own, found = (load_file(tmp_path / each / "model.safetensors") for each in ("own", "float8"))
    assert {name: each.dtype for name, each in own.items()} == {name: each.dtype for name, each in found.items()}
    assert all(torch.equal(each, found[name]) for name, each in own.items())
    kind = importlib.import_module("torchao.float8.float8_linear").Float8Linear
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda layer, states: 1.25 * forward(layer, states))
    layers.leave()
    assert not _proof(model, layers).is_equal


def _proof(model: Any, layers: Float8Linears) -> Proof:
    return prove(model, layers, torch.float8_e4m3fn, contextlib.nullcontext)
