"""Liger's kernels and compiled layers are used if they are proved to train alike and are quicker; else the model's."""

import contextlib
import importlib.util
import re
import sys
import types
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dimba.common.errors import BadInput
from dimba.objectives.sft import SFT
from dimba.trainers.kernels import choice, elementwise
from dimba.trainers.kernels.blocks import CompiledBlocks, repeated_blocks
from dimba.trainers.kernels.liger import LigerKernels, NoKernels
from dimba.trainers.kernels.proof import Proof, prove
from dimba.trainers.kernels.step_time import OWN, Job
from dimba.trainers.kernels.timings import Timings
from tests.conftest import write_rows
from tests.trainers.test_packing import LLAMA, tiny
from tests.trainers.test_sft import metrics, run

pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = SFT.parse(["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", "out"])
NAME = "liger_kernel.transformers"


def _apply(model: Any, *, rope: bool = True, rms_norm: bool = True, **losses: bool) -> None:
    """Changes a model as liger-kernel does: functions and classes of its file, and methods of its modules."""
    assert losses == {"cross_entropy": False, "fused_linear_cross_entropy": False}
    if model.config.model_type != "llama":
        return
    file: Any = sys.modules[type(model).__module__]
    file.apply_rotary_pos_emb = elementwise._rotate
    file.LlamaRMSNorm = torch.nn.RMSNorm
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.offset = 0.0
            module.__dict__["forward"] = types.MethodType(elementwise._norm, module)


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for liger-kernel, with its function that changes a model."""
    for name in ("liger_kernel", NAME, "triton"):
        module: Any = types.ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules[NAME]._apply_liger_kernel_to_instance = _apply  # type: ignore[attr-defined]


def state(model: Any) -> list[tuple[Any, ...]]:
    """What liger-kernel may change, in a form that can be compared."""
    file = sys.modules[type(model).__module__]
    return [(id(vars(file)[name]),) for name in ("apply_rotary_pos_emb", "LlamaRMSNorm")] + [
        (name, sorted(vars(module)), id(module.__dict__.get("forward"))) for name, module in model.named_modules()
    ]


def test_ligers_kernels_are_put_in_and_taken_out_and_leave_the_classes_of_other_models(liger: None):
    model = tiny("Llama", LLAMA)
    file: Any = sys.modules[type(model).__module__]
    before = state(model)
    kernels = LigerKernels(model)
    assert state(model) == before
    kernels.use()
    assert file.apply_rotary_pos_emb is elementwise._rotate and "offset" in vars(model.model.norm)
    assert file.LlamaRMSNorm is not torch.nn.RMSNorm
    assert prove(model, kernels, torch.float32, contextlib.nullcontext).is_equal
    assert state(model) == before


def test_a_family_that_liger_does_not_know_and_a_missing_package_have_no_kernels(liger: None, monkeypatch):
    with pytest.raises(NoKernels, match="family mistral"):
        LigerKernels(tiny("Mistral", LLAMA))
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setattr("dimba.trainers.kernels.liger.find_spec", lambda _: None)
    with pytest.raises(NoKernels, match="not installed"):
        LigerKernels(tiny("Llama", LLAMA))


class Changed:
    """Kernels of another epsilon, activation or scale."""

    name = "changed"

    def __init__(self, model: Any, change: str) -> None:
        self._model, self._change = model, change
        self._activation = model.model.layers[0].mlp.act_fn

    def use(self) -> None:
        for block in self._model.model.layers:
            if self._change == "epsilon":
                block.input_layernorm.variance_epsilon = 1e-5
            if self._change == "activation":
                block.mlp.act_fn = torch.nn.GELU()
            if self._change == "nan":
                block.mlp.act_fn = lambda states: states * float("nan")
            if self._change == "raises":
                block.mlp.act_fn = None

    def leave(self) -> None:
        for block in self._model.model.layers:
            block.input_layernorm.variance_epsilon, block.mlp.act_fn = 1e-6, self._activation


@pytest.mark.parametrize("change", ["epsilon", "activation", "nan", "raises"])
def test_kernels_of_other_numbers_are_rejected(change: str):
    model = tiny("Llama", LLAMA)
    proof = prove(model, Changed(model, change), torch.float32, contextlib.nullcontext)
    assert not proof.is_equal and proof.reason


@pytest.mark.parametrize("change", ["activation", "nan"])
def test_kernels_of_other_numbers_are_rejected_in_bf16(change: str):
    model = tiny("Llama", LLAMA)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    assert not prove(model, Changed(model, change), torch.bfloat16, autocast).is_equal
    assert prove(model, Changed(model, "nothing"), torch.bfloat16, autocast) == Proof(
        True, 0.0, "within 0 roundings of a block's output"
    )


def test_a_proof_leaves_modes_hooks_random_numbers_and_gradients_as_they_were():
    model = tiny("Llama", LLAMA).eval()
    model.model.norm.train()
    state = torch.get_rng_state()
    prove(model, Changed(model, "nothing"), torch.float32, contextlib.nullcontext)
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, module in model.named_modules() if module.training] == ["model.norm"]
    assert not any(module._forward_hooks for module in model.modules())
    assert all(each.grad is None for each in model.parameters())


def test_one_compilation_serves_all_layers_and_lengths():
    model, graphs = tiny("Llama", LLAMA), []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    names = list(model.state_dict())
    compiled = CompiledBlocks(model, backend)
    losses = []
    for use in (compiled.leave, compiled.use):
        use()
        for length in (9, 14, 23, 40):
            ids = torch.arange(2 * length).reshape(2, -1) % 32
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            gradient = torch.autograd.grad(loss, model.lm_head.weight)[0]
            losses.append(float(loss) + float(gradient.abs().sum()))
    assert losses[4:] == pytest.approx(losses[:4], rel=1e-5)
    assert len(repeated_blocks(model)) == 2 and len(graphs) == 1, "one for all layers and lengths"
    with torch.no_grad():
        model.generate(torch.ones(1, 3, dtype=torch.long), max_new_tokens=4, do_sample=False)
    assert len(graphs) == 1, "sampling is not compiled"
    assert list(model.state_dict()) == names
    torch._dynamo.reset()


@pytest.mark.proof
def test_compiled_layers_under_an_adapter_train_alike_with_and_without_checkpointing():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny("Llama", LLAMA), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    compiled = CompiledBlocks(model.get_base_model(), "eager")
    for recompute in (False, True):
        if recompute:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        proof = prove(model, compiled, torch.float32, contextlib.nullcontext)
        assert proof.is_equal, proof.reason
    torch._dynamo.reset()


class Named:
    """Kernels that note their use."""

    def __init__(self, name: str) -> None:
        self.name, self.is_used = name, False

    def use(self) -> None:
        self.is_used = True

    def leave(self) -> None:
        self.is_used = False


@dataclass
class Stage:
    """Stand-ins for both kernels, their times, and the names of those that a proof rejects."""

    kernels: dict[str, Named] = field(default_factory=lambda: {name: Named(name) for name in ("liger", "compiled")})
    seconds: dict[str, float] = field(default_factory=lambda: {OWN: 1.0, "liger": 0.8, "compiled": 0.7})
    wrong: tuple[str, ...] = ()

    def maker(self, name: str) -> Any:
        return lambda _: self.kernels[name]

    def times(self, _: Job, given: dict[str, Any]) -> Timings:
        return Timings({name: self.seconds[name] for name in (OWN, *given)}, {})

    def proof(self, _: Job, kernels: Named) -> Proof:
        return Proof(kernels.name not in self.wrong, 0.0, "proved")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """What looks like a GPU."""
    made = Stage()
    monkeypatch.setattr(choice, "_is_on_cuda", lambda _: True)
    monkeypatch.setattr(choice, "_MAKERS", {name: made.maker(name) for name in made.kernels})
    monkeypatch.setattr(choice, "_proof_here", made.proof)
    monkeypatch.setattr(choice, "step_times", made.times)
    return made


def job(steps: int, **given: Any) -> Job:
    args = SimpleNamespace(max_steps=steps, gradient_accumulation_steps=2, device=torch.device("cpu"))
    return Job(SimpleNamespace(args=args, model=None), dict, replace(OPTIONS, **given), "bf16")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "given", "wrong", "expected", "said"),
    [
        (10_000, {}, (), "compiled", "own 1 s, liger 0.8 s, compiled 0.7 s a pass"),
        (100, {}, (), "liger", "not compiled: the job is too short to pay for it"),
        (10_000, {}, ("compiled",), "liger", "not compiled: proved"),
        (100, {}, ("liger",), "own", "not liger: proved"),
        (10_000, {"kernels": "own"}, (), "compiled", "not liger: as asked"),
        (10_000, {"kernels": "own", "compile": "off"}, (), "own", "not liger: as asked; not compiled: as asked"),
        (1, {"kernels": "liger"}, (), "liger", "as asked; proved"),
        (1, {"compile": "on"}, (), "compiled", "as asked; proved"),
    ],
)
def test_the_quickest_kernels_that_are_proved_and_pay_are_used(
    steps: int, given: dict[str, Any], wrong: tuple[str, ...], expected: str, said: str, stage: Stage
):
    stage.wrong = wrong
    words = choice.choose_kernels(job(steps, **given))
    assert words.startswith(f"kernels: {expected}") and said in words
    assert [name for name, each in stage.kernels.items() if each.is_used] == [expected] * (expected != OWN)


def test_layers_are_not_compiled_for_less_than_compiling_takes(stage: Stage):
    stage.seconds["compiled"] = 0.78
    assert "not compiled: it would save 20 s of the job" in choice.choose_kernels(job(500))
    assert stage.kernels["liger"].is_used


@pytest.mark.parametrize(
    ("given", "samples", "problem"),
    [
        ({"kernels": "liger"}, False, "proved"),
        ({"compile": "on"}, True, "the job samples as well"),
        ({"compile": "on", "kernels": "liger"}, False, "have kernels of their own"),
    ],
)
def test_kernels_that_were_asked_for_and_cannot_be_used_end_the_job(
    given: dict[str, Any], samples: bool, problem: str, stage: Stage
):
    stage.wrong = ("liger",)
    with pytest.raises(BadInput, match=problem):
        choice.choose_kernels(replace(job(1, **given), samples=samples))


def test_a_cpu_divided_rows_and_a_sharded_model_keep_their_own_kernels(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "_is_on_cuda", lambda _: False)
    assert (
        choice.choose_kernels(job(10_000)) == "kernels: own (not liger: it is for CUDA; not compiled: it is for CUDA)"
    )
    monkeypatch.setattr(choice, "_is_on_cuda", lambda _: True)
    assert "not liger: ranks share each row" in choice.choose_kernels(job(10_000, sequence_parallel=2))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "the model is sharded" in choice.choose_kernels(job(10_000))


@pytest.mark.proof
def test_a_job_trains_alike_with_the_kernels_that_it_chose(
    tiny_checkpoint: Path, tmp_path: Path, liger: None, monkeypatch: pytest.MonkeyPatch
):
    rows = write_rows(tmp_path / "rows.jsonl", [{"question": f"Count to {n}", "answer": str(n)} for n in range(16)])
    steps = ("--batch-size", "2", "--max-steps", "3", "--device", "cpu", "--max-length", "64")
    run(tiny_checkpoint, rows, tmp_path / "own", *steps)
    monkeypatch.setattr(choice, "_is_on_cuda", lambda _: True)
    monkeypatch.setattr("dimba.trainers.kernels.timings.timings_folder", lambda: tmp_path / "timings")
    chosen = {"auto": r"kernels: (own|liger) \(own 0\.", "liger": r"kernels: liger \(as asked; within"}
    for name, said in chosen.items():
        assert re.search(said, run(tiny_checkpoint, rows, tmp_path / name, *steps, "--kernels", name))
        own, found = ([line["loss"] for line in metrics(tmp_path / each)] for each in ("own", name))
        assert found == pytest.approx(own, abs=2e-5)
