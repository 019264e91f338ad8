"""FSDP2 over gloo: accelerate shards on GPUs alone, so it is told otherwise here; everything else is the real thing."""

import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from dimba.objectives.registry import OBJECTIVES
from dimba.plan.strategy import Strategy
from tests.conftest import REPOSITORY, write_rows
from tests.trainers.test_ranks import start
from tests.weights import farthest, weights_file

TOLD = """\
import runpy, sys
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

made = AcceleratorState.__init__

def told(self, *args, fsdp_plugin=None, **options):
    made(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)

AcceleratorState.__init__ = told
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# As on cards: computed in bf16, a frozen base loaded in it.
REDUCED = """\
import os, torch
from dimba.trainers.models import loading

os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
loading.choose_compute = lambda *_, **__: loading.Compute(on_cpu=True, mixed="no")  # transformers refuses bf16 on a CPU
options = loading._options

def reduced(*args, frozen):
    return {**options(*args, frozen=frozen), "dtype": torch.bfloat16 if frozen else torch.float32}

loading._options = reduced
"""

SFT = ["--num-epochs", "2", "--batch-size", "2", "--grad-accumulation-steps", "2", "--max-length", "64"]
GRPO = ["--max-steps", "3", "--batch-size", "4", "--num-generations", "4", "--max-completion-length", "8"]


pytestmark = pytest.mark.proof  # each starts four processes that import torch


class Sharing:
    """One job after the other on two processes, over the same rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = folder / "told.py"
        self.told.write_text(TOLD, encoding="utf-8")

    def train(
        self, base: Path, name: str, *flags: str, mode: str = "sft", sharded: bool = True, status: int = 0
    ) -> str:
        """Trains into the folder `name`; returns what was said."""
        script = str(REPOSITORY / f"scripts/finetuning/finetune_{mode}.py")
        named = ["--base-checkpoint", str(base), "--dataset", str(self.folder / "data.jsonl"), "--device", "cpu"]
        named += ["--output-dir", str(self.folder / name), "--learning-rate", "1e-3", *flags]
        way = " ".join(Strategy("fsdp2", "").flags(OBJECTIVES[mode])) + " --main_process_port 0" if sharded else ""
        job = start(self.folder, 2, str(self.told), script, *named, way=way)
        out, _ = job.communicate(timeout=300)
        assert job.returncode == status, out
        return out


@pytest.fixture
def sharing(tmp_path: Path) -> Sharing:
    rows = [{"prompt": f"Count to {n}", "response": "1" * n} for n in range(1, 14)]  # 13: no multiple of anything
    write_rows(tmp_path / "data.jsonl", rows)
    return Sharing(tmp_path)


@pytest.fixture(scope="module")
def tied(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose head is its embedding."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tied") / "base"
    shutil.copytree(tiny_checkpoint, folder)
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_a_sharded_model_trains_as_a_whole_one_and_is_saved_whole(
    tiny_checkpoint: Path, sharing: Sharing, method: tuple[str, ...]
):
    for name, sharded in (("whole", False), ("sharded", True)):
        sharing.train(tiny_checkpoint, name, *SFT, *method, sharded=sharded)
    assert farthest(sharing.folder / "whole", sharing.folder / "sharded") < 1e-6
    written = [sorted(each.name for each in (sharing.folder / name).iterdir()) for name in ("whole", "sharded")]
    assert written[0] == written[1]
    names = {each.name for each in (sharing.folder / "sharded").glob("checkpoint-*/pytorch_model_fsdp_0/*.distcp")}
    assert names == {"__0_0.distcp", "__1_0.distcp"}, "a part of each process"


@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_a_sharded_model_is_computed_in_bf16(tiny_checkpoint: Path, sharing: Sharing, method: tuple[str, ...]):
    sharing.train(tiny_checkpoint, "exact", *SFT, *method)
    sharing.told.write_text(REDUCED + TOLD, encoding="utf-8")
    sharing.train(tiny_checkpoint, "reduced", *SFT, *method)
    assert 1e-5 < farthest(sharing.folder / "exact", sharing.folder / "reduced") < 1e-2
    dtypes = {weight.dtype.name for weight in load_file(weights_file(sharing.folder / "reduced")).values()}
    assert dtypes == {"float32"}, "what is trained"


def test_a_tied_head_is_saved_once_and_what_is_saved_loads(tied: Path, sharing: Sharing):
    from transformers import AutoModelForCausalLM

    for name, sharded in (("whole", False), ("sharded", True)):
        sharing.train(tied, name, *SFT, sharded=sharded)
    assert farthest(sharing.folder / "whole", sharing.folder / "sharded") < 1e-6, "and of the same names"
    _, found = AutoModelForCausalLM.from_pretrained(sharing.folder / "sharded", output_loading_info=True)
    assert not (found["missing_keys"] or found["unexpected_keys"])


def test_a_sharded_run_goes_on_exactly(tiny_checkpoint: Path, sharing: Sharing):
    sharing.train(tiny_checkpoint, "once", *SFT, "--save-steps", "2")
    (sharing.folder / "twice").mkdir()
    shutil.copytree(sharing.folder / "once/checkpoint-2", sharing.folder / "twice/checkpoint-2")
    going_on = ("--resume-from-checkpoint", str(sharing.folder / "twice"))
    sharing.train(tiny_checkpoint, "twice", *SFT, "--save-steps", "2", *going_on)
    assert farthest(sharing.folder / "once", sharing.folder / "twice") == 0


@pytest.mark.parametrize("method", [("--beta", "0.1"), ("--use-lora",)])
def test_grpo_samples_and_trains_with_a_sharded_model(tiny_checkpoint: Path, sharing: Sharing, method: tuple[str, ...]):
    rewarded = ("--reward", "contains:1", "--validation-split", "3")
    for name, sharded in (("whole", False), ("sharded", True)):
        said = sharing.train(tiny_checkpoint, name, *GRPO, *rewarded, *method, mode="grpo", sharded=sharded)
        assert "held-out" in said
    assert farthest(sharing.folder / "whole", sharing.folder / "sharded") < 1e-6


def test_a_reward_model_is_trained_sharded_too(tiny_checkpoint: Path, sharing: Sharing):
    pairs = [{"prompt": f"Count to {n}", "chosen": "1 please" * n, "rejected": "2" * n} for n in range(1, 40)]
    write_rows(sharing.folder / "data.jsonl", pairs)
    flags = (*GRPO, "--max-length", "128", "--reward", "preference", "--allow-weak-reward")
    said = sharing.train(tiny_checkpoint, "pairs", *flags, mode="grpo")
    assert "stage 2 of 2" in said and (sharing.folder / "pairs/model.safetensors").exists()


@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_dpo_compares_with_a_sharded_reference(tiny_checkpoint: Path, sharing: Sharing, method: tuple[str, ...]):
    pairs = [{"prompt": f"Count to {n}", "chosen": "1" * n + " please", "rejected": "2" * n} for n in range(1, 14)]
    write_rows(sharing.folder / "data.jsonl", pairs)
    said = {}
    for name, sharded in (("whole", False), ("sharded", True)):
        flags = (*SFT, "--validation-split", "3", *method)
        said[name] = sharing.train(tiny_checkpoint, name, *flags, mode="dpo", sharded=sharded)
    assert farthest(sharing.folder / "whole", sharing.folder / "sharded") < 1e-6
    assert "held-out pairs ordered rightly: 50.0% before training" in said["sharded"]


def test_ddp_in_place_of_fsdp2_ends_the_job(tiny_checkpoint: Path, sharing: Sharing):
    sharing.told.write_text(
        "import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    said = sharing.train(tiny_checkpoint, "whole", *SFT, status=3)
    assert "FSDP2 was asked for, and accelerate shares the model by MULTI_CPU" in said
    assert "hint: set `accelerate.strategy" in said
    assert not (sharing.folder / "whole").exists()
