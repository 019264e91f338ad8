"""A masked checkpoint of other sizes in the container: converted, trained on two GPUs from the wizard's spec, asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from dimba.runners.docker.engine import Engine
from dimba.trainers.tiny import make_tokenizer
from tests.conftest import QUESTIONS, Dimba, write_rows
from tests.models.original import original, saved

SIZES = {
    "d_model": 96, "d_prompt": 40, "d_state": 24, "d_conv": 3, "expand": 3, "ffn_hidden": 130, "num_denoiser_layers": 3,
    "num_diffusion_steps": 250, "use_weight_tying": False,
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> dict[str, Any]:
    """Eighteen heads of 16, bfloat16, the names of a compiled model, and tokens behind the mask."""
    tokenizer = make_tokenizer([text for row in QUESTIONS for text in row.values()], size=300)
    tokenizer.save_pretrained(tmp_path / "words")
    made = original(heads=18, vocab_size=len(tokenizer) + 8, **SIZES)
    weights = {f"_orig_mod.{name}": each.bfloat16() for name, each in made["model_state_dict"].items()}
    return {**made, "model_state_dict": weights, "mask_id": len(tokenizer)}


def test_a_masked_checkpoint_is_converted_trained_on_two_gpus_and_asked_in_containers(
    engine: Engine, built: str, checkpoint: dict[str, Any], tmp_path: Path, dimba: Dimba
):
    saved(tmp_path / "a.pt", checkpoint)
    write_rows(tmp_path / "data.jsonl", QUESTIONS)
    own = {"HF_HOME": str(tmp_path / "hf"), "DIMBA_LEASES": str(tmp_path / "leases")}
    found = dimba(
        "convert", "a.pt", "base", "--tokenizer", "words", "--runner", "docker", "--json", cwd=tmp_path, **own
    )
    assert found.returncode == 0, found.stderr
    facts = json.loads(found.stdout)
    assert (facts["dtype"], facts["tied"], facts["mask_token_id"]) == ("bfloat16", False, checkpoint["mask_id"])

    flags = (
        "--base-checkpoint",
        "base",
        "--dataset",
        "data.jsonl",
        "--method",
        "lora",
        "--gpus",
        "2",
        "--name",
        "masked",
    )
    steps = ("--batch-size", "2", "--grad-accumulation-steps", "1", "--max-steps", "3", "--learning-rate", "0.01")
    started = ("wizard", "--defaults", *flags, *steps, "--allow-cpu", "--launch")
    trained = dimba(*started, cwd=tmp_path, **own)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "a masked-diffusion language model" in trained.stderr
    assert "4 rows per step = 2 processes × 2" in trained.stderr
    assert f"started in {built}" in trained.stderr
    assert "the mask token is `[MASK]`" in trained.stdout
    assert (tmp_path / "checkpoints" / "finetune_sft_lora" / "adapter_model.safetensors").exists()

    ask = ("--gpus", "1", "--allow-cpu", "--max-new-tokens", "6", "--block-length", "3", "--json")
    answered = dimba("generate", "masked", QUESTIONS[2]["question"], *ask, cwd=tmp_path, **own)
    assert answered.returncode == 0, answered.stderr
    assert 0 < json.loads(answered.stdout)["tokens"] <= 6
