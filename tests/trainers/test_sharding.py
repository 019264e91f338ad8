"""FSDP2 over gloo: a patch lets accelerate shard on CPUs, everything else is real."""

import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from dimba.objectives.registry import OBJECTIVES
from dimba.plan.strategy import Strategy
from tests.conftest import REPOSITORY, write_rows
from tests.trainers.test_ranks import start
from tests.weights import largest_difference, weights_file

CPU_SHARDING = """\
import runpy, sys
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

original = AcceleratorState.__init__

def __init__(self, *args, fsdp_plugin=None, **options):
    original(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)

AcceleratorState.__init__ = __init__
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# As on GPUs: computes in bf16, and loads a frozen base in bf16.
REDUCED = """\
import os, torch
from dimba.trainers.models import loading

os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
loading.choose_compute = lambda *_, **__: loading.Compute(on_cpu=True, mixed="no")  # transformers refuses bf16 on a CPU
settings = loading._settings

def reduced(*args, frozen):
    return {**settings(*args, frozen=frozen), "dtype": torch.bfloat16 if frozen else torch.float32}

loading._settings = reduced
"""

SFT = ["--num-epochs", "2", "--batch-size", "2", "--grad-accumulation-steps", "2", "--max-length", "64"]
GRPO = ["--max-steps", "3", "--batch-size", "4", "--num-generations", "4", "--max-completion-length", "8"]


pytestmark = pytest.mark.proof  # each test starts four processes that import torch


class Jobs:
    """Runs jobs on two processes, one after the other, with the same rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launcher = folder / "launch.py"
        self.launcher.write_text(CPU_SHARDING, encoding="utf-8")

    def train(
        self, base: Path, name: str, *flags: str, mode: str = "sft", sharded: bool = True, status: int = 0
    ) -> str:
        """Trains into the folder `name`; returns the output."""
        script = str(REPOSITORY / f"scripts/finetuning/finetune_{mode}.py")
        named = ["--base-checkpoint", str(base), "--dataset", str(self.folder / "data.jsonl"), "--device", "cpu"]
        named += ["--output-dir", str(self.folder / name), "--learning-rate", "1e-3", *flags]
        way = " ".join(Strategy("fsdp2", "").flags(OBJECTIVES[mode])) + " --main_process_port 0" if sharded else ""
        job = start(self.folder, 2, str(self.launcher), script, *named, way=way)
        out, _ = job.communicate(timeout=300)
        assert job.returncode == status, out
        return out


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    rows = [{"prompt": f"Count to {n}", "response": "1" * n} for n in range(1, 14)]  # 13: no multiple of anything
    write_rows(tmp_path / "data.jsonl", rows)
    return Jobs(tmp_path)


@pytest.fixture(scope="module")
def tied(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with tied embeddings."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tied") / "base"
    shutil.copytree(tiny_checkpoint, folder)
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_a_sharded_model_trains_like_an_unsharded_one_and_is_saved_unsharded(
    tiny_checkpoint: Path, jobs: Jobs, method: tuple[str, ...]
):
    for name, sharded in (("unsharded", False), ("sharded", True)):
        recomputed = "1" if sharded else "off"  # of two layers
        jobs.train(tiny_checkpoint, name, *SFT, *method, "--activation-checkpointing", recomputed, sharded=sharded)
    assert largest_difference(jobs.folder / "unsharded", jobs.folder / "sharded") < 1e-6
    written = [sorted(each.name for each in (jobs.folder / name).iterdir()) for name in ("unsharded", "sharded")]
    assert written[0] == written[1]
    names = {each.name for each in (jobs.folder / "sharded").glob("checkpoint-*/pytorch_model_fsdp_0/*.distcp")}
    assert names == {"__0_0.distcp", "__1_0.distcp"}, "each process writes its part"


@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_a_sharded_model_computes_in_bf16_and_keeps_float32(tiny_checkpoint: Path, jobs: Jobs, method: tuple[str, ...]):
    jobs.train(tiny_checkpoint, "exact", *SFT, *method)
    jobs.launcher.write_text(REDUCED + CPU_SHARDING, encoding="utf-8")
    jobs.train(tiny_checkpoint, "reduced", *SFT, *method)
    assert 1e-5 < largest_difference(jobs.folder / "exact", jobs.folder / "reduced") < 1e-2
    dtypes = {weight.dtype.name for weight in load_file(weights_file(jobs.folder / "reduced")).values()}
    assert dtypes == {"float32"}, "the trained weights"


def test_a_sharded_model_with_a_tied_head_loads_without_missing_or_extra_weights(tied: Path, jobs: Jobs):
    from transformers import AutoModelForCausalLM

    for name, sharded in (("unsharded", False), ("sharded", True)):
        jobs.train(tied, name, *SFT, sharded=sharded)
    assert largest_difference(jobs.folder / "unsharded", jobs.folder / "sharded") < 1e-6, "with equal names"
    _, found = AutoModelForCausalLM.from_pretrained(jobs.folder / "sharded", output_loading_info=True)
    assert not (found["missing_keys"] or found["unexpected_keys"])


def test_a_resumed_sharded_run_ends_with_exactly_the_same_weights(tiny_checkpoint: Path, jobs: Jobs):
    jobs.train(tiny_checkpoint, "once", *SFT, "--save-steps", "2")
    (jobs.folder / "twice").mkdir()
    shutil.copytree(jobs.folder / "once/checkpoint-2", jobs.folder / "twice/checkpoint-2")
    resume = ("--resume-from-checkpoint", str(jobs.folder / "twice"))
    jobs.train(tiny_checkpoint, "twice", *SFT, "--save-steps", "2", *resume)
    assert largest_difference(jobs.folder / "once", jobs.folder / "twice") == 0


@pytest.mark.parametrize("method", [("--beta", "0.1"), ("--use-lora",)])
def test_grpo_samples_and_trains_with_a_sharded_model(tiny_checkpoint: Path, jobs: Jobs, method: tuple[str, ...]):
    rewarded = ("--reward", "contains:1", "--validation-split", "3")
    for name, sharded in (("unsharded", False), ("sharded", True)):
        output = jobs.train(tiny_checkpoint, name, *GRPO, *rewarded, *method, mode="grpo", sharded=sharded)
        assert "held-out" in output
    assert largest_difference(jobs.folder / "unsharded", jobs.folder / "sharded") < 1e-6


def test_a_sharded_job_trains_its_reward_model_first(tiny_checkpoint: Path, jobs: Jobs):
    pairs = [{"prompt": f"Count to {n}", "chosen": "1 please" * n, "rejected": "2" * n} for n in range(1, 40)]
    write_rows(jobs.folder / "data.jsonl", pairs)
    flags = (*GRPO, "--max-length", "128", "--reward", "preference", "--allow-weak-reward")
    output = jobs.train(tiny_checkpoint, "pairs", *flags, mode="grpo")
    assert "stage 2 of 2" in output and (jobs.folder / "pairs/model.safetensors").exists()


@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_dpo_compares_with_a_sharded_reference(tiny_checkpoint: Path, jobs: Jobs, method: tuple[str, ...]):
    pairs = [{"prompt": f"Count to {n}", "chosen": "1" * n + " please", "rejected": "2" * n} for n in range(1, 14)]
    write_rows(jobs.folder / "data.jsonl", pairs)
    flags = (*SFT, "--validation-split", "3", *method)
    for name, sharded in (("unsharded", False), ("sharded", True)):
        recomputed = ("--activation-checkpointing", "1" if sharded else "off")
        output = jobs.train(tiny_checkpoint, name, *flags, *recomputed, mode="dpo", sharded=sharded)
        assert "held-out pairs ordered rightly: 50.0% before training" in output
    assert largest_difference(jobs.folder / "unsharded", jobs.folder / "sharded") < 1e-6


def test_a_job_that_gets_ddp_in_place_of_fsdp2_is_refused(tiny_checkpoint: Path, jobs: Jobs):
    jobs.launcher.write_text(
        "import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    output = jobs.train(tiny_checkpoint, "unsharded", *SFT, status=3)
    assert "accelerate distributes the model by MULTI_CPU, not by FSDP2" in output
    assert "hint: set `accelerate.strategy" in output
    assert not (jobs.folder / "unsharded").exists()


def test_ranks_of_a_sharded_job_share_out_gradients_after_every_batch(monkeypatch: pytest.MonkeyPatch):
    from dimba.objectives.sft import SFT
    from dimba.trainers.models.loading import Compute
    from dimba.trainers.objectives.run_settings import run_settings

    options = SFT.parse(["--base-checkpoint", "base", "--dataset", "data", "--output-dir", "out"])
    found = []
    for sharded in ("false", "true"):
        monkeypatch.setenv("ACCELERATE_USE_FSDP", sharded)
        found.append(run_settings(options, Compute(on_cpu=True, mixed="no"), can_fall_back=False)["accelerator_config"])
    assert found == [{}, {"gradient_accumulation_kwargs": {"sync_each_batch": True}}], "else each keeps all of them"
