"""Masked-diffusion bases are fine-tuned like any other: tiny ones of each family, trained for a few steps."""

import io
import json
import math
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimba.common.errors import BadInput
from dimba.objectives.families import DIMBA
from dimba.objectives.sft import SFT
from dimba.trainers.command import run_trainer
from dimba.trainers.models.families import auto_class, checked_family, family_at
from dimba.trainers.models.masked_diffusion.forward import logits_of, mask_id
from dimba.trainers.models.masked_diffusion.noise import Noise
from dimba.trainers.models.masked_diffusion.sampler import Unmasking, sample
from dimba.trainers.models.masked_diffusion.scoring import add_scoring, losses
from dimba.trainers.objectives.sft.train import train
from tests.conftest import write_rows
from tests.trainers.masked.bases import CHATS, make_masked
from tests.trainers.masked.toy import right, trained
from tests.trainers.test_sharding import Jobs
from tests.weights import largest_difference

pytestmark = pytest.mark.slow
KINDS = ("dimba", "llada", "Dream")
BRIEF = ("--max-steps", "4", "--batch-size", "4", "--grad-accumulation-steps", "2", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_masked(folder / kind, kind) for kind in KINDS}


def options(base: Path, folder: Path, *flags: str, rows: list[dict[str, Any]] = CHATS) -> Any:
    data = write_rows(folder / "data.jsonl", rows)
    named = ["--base-checkpoint", str(base), "--dataset", str(data), "--output-dir", str(folder / "out")]
    return SFT.parse([*named, "--device", "cpu", "--trust-remote-code", "--max-length", "128", *flags])


def run(base: Path, folder: Path, *flags: str, **more: Any) -> tuple[int, str]:
    folder.mkdir(exist_ok=True)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = run_trainer(train, options(base, folder, *flags, **more))
    return status, output.getvalue()


def evaluations(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return [line["eval_loss"] for line in lines if "eval_loss" in line]


def loaded(folder: Path) -> Any:
    return auto_class(family_at(str(folder))).from_pretrained(folder, trust_remote_code=True).eval()


def changed(base: Path, folder: Path, **values: Any) -> Path:
    """A copy of a base with other values in config.json; None removes a key."""
    shutil.copytree(base, folder)
    config = {**json.loads((folder / "config.json").read_text()), **values}
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    ("kind", "method"), [("dimba", "--use-lora"), ("llada", "full"), ("Dream", "--use-qlora")], ids=KINDS
)
def test_a_run_resumes_to_the_last_bit(kind: str, method: str, bases: dict[str, Path], tmp_path: Path):
    held_out = ("--validation-split", "2", "--eval-steps", "2", "--save-best", "--save-steps", "2")
    flags = (*BRIEF, *held_out, *(each for each in (method,) if each != "full"))
    status, output = run(bases[kind], tmp_path / "run", *flags)
    assert status == 0, output
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    complete = load_file(tmp_path / "run" / "out" / name)
    assert "learned: " in output and "warning" not in output, output
    assert "the mask token is `<|mask|>` (300)" in output and "changes the logits of those before it by" in output
    before = evaluations(tmp_path / "run")
    for file in [*(tmp_path / "run" / "out").glob("*.*"), tmp_path / "run" / "out" / "checkpoint-4"]:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    resumed = ("--resume-from-checkpoint", str(tmp_path / "run" / "out"))
    status, output = run(bases[kind], tmp_path / "run", *flags, *resumed)
    assert status == 0, output
    again = load_file(tmp_path / "run" / "out" / name)
    assert all(again[each].equal(complete[each]) for each in complete)
    assert evaluations(tmp_path / "run")[-1] == before[-1]


def test_one_batch_and_several_of_a_step_train_the_same_weights(bases: dict[str, Path], tmp_path: Path):
    shapes = {"one": ("8", "1"), "several": ("2", "4")}
    for name, (size, accumulation) in shapes.items():
        flags = ("--batch-size", size, "--grad-accumulation-steps", accumulation, "--max-steps", "3")
        assert run(bases["llada"], tmp_path / name, *flags, "--learning-rate", "1e-4")[0] == 0
    found = [tmp_path / name / "out" for name in shapes]
    assert largest_difference(*found) < 1e-6
    logs = [(tmp_path / name / "out" / "metrics.jsonl").read_text().splitlines() for name in shapes]
    one, several = ([json.loads(line)["loss"] for line in lines] for lines in logs)
    assert one == pytest.approx(several, abs=1e-5)


def test_a_uniform_model_is_evaluated_at_log_v(bases: dict[str, Path], tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(bases["Dream"], base)
    model = loaded(base)
    torch.nn.init.zeros_(model.head.weight)
    model.save_pretrained(base)
    flags = ("--max-steps", "1", "--batch-size", "2", "--grad-accumulation-steps", "1", "--learning-rate", "1e-12")
    many = [{"messages": [*one["messages"], *other["messages"]]} for one, other in pairwise(CHATS)]
    status, output = run(base, tmp_path, *flags, "--validation-split", "3", rows=many)
    assert status == 0, output
    assert evaluations(tmp_path)[-1] == pytest.approx(math.log(model.config.vocab_size), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_the_models_own_logits(kind: str, bases: dict[str, Path]):
    model = loaded(bases[kind])
    ids = torch.arange(3, 27).view(2, 12)
    attended = torch.ones_like(ids)
    attended[1, 9:] = 0
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[0, 3:11] = masked[1, 4:7] = True
    noise = Noise(masked, torch.tensor([0.8, 0.4]))
    with torch.no_grad():
        logits = logits_of(model, ids.masked_fill(masked, mask_id(model)), attended, noise.share)
        expected = -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0] * masked
        assert add_scoring(model) == "the head over masked tokens only"
        found = losses(model, model, ids, attended, noise)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_head_of_dream_predicts_the_next_position(bases: dict[str, Path]):
    model = loaded(bases["Dream"])
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        own = model(ids).logits
        assert logits_of(model, ids, None, torch.ones(1))[:, 1:].equal(own[:, :-1])
        plain = loaded(bases["llada"])
        assert logits_of(plain, ids, None, torch.ones(1)).equal(plain(ids).logits)


def test_a_causal_model_under_the_name_of_a_masked_one_is_refused(bases: dict[str, Path], tmp_path: Path):
    status, output = run(changed(bases["llada"], tmp_path / "base", is_causal=True), tmp_path)
    assert status == 2 and "is causal, and its `model_type` is that of a masked-diffusion model" in output
    assert "correct `model_type`" in output


def test_a_two_way_model_under_the_name_of_a_causal_one_is_refused(bases: dict[str, Path], tmp_path: Path):
    base = changed(bases["llada"], tmp_path / "base", model_type="mine", architectures=["LLaDAModelLM"])
    code = base / "modeling_llada.py"
    code.write_text(code.read_text().replace('"llada"', '"mine"'))
    mapped = {"AutoConfig": "modeling_llada.Config", "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"}
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "auto_map": mapped}))
    status, output = run(base, tmp_path)
    assert status == 2 and "attend to later ones" in output, output


def test_a_model_that_sees_padding_is_trained_a_row_at_a_time_only(bases: dict[str, Path], tmp_path: Path):
    base = changed(bases["llada"], tmp_path / "base", ignores_padding=False)
    status, output = run(base, tmp_path, "--batch-size", "2")
    assert status == 2 and "attends to padding, which changes the logits of a row by" in output
    assert "training.batch_size: 1" in output
    flags = ("--max-steps", "1", "--grad-accumulation-steps", "8")
    assert run(base, tmp_path, *flags, "--batch-size", "1")[0] == 0


def test_a_mask_token_that_the_base_does_not_name_is_named_by_a_flag(bases: dict[str, Path], tmp_path: Path):
    base = changed(bases["llada"], tmp_path / "base", mask_token_id=None)
    file = base / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in settings.items() if name != "mask_token"}))
    status, output = run(base, tmp_path)
    assert status == 2 and "names no mask token" in output and "--mask-token TOKEN" in output, output
    status, output = run(base, tmp_path, "--mask-token", "<mask>")
    assert status == 2 and "the tokenizer has no token `<mask>`" in output
    status, output = run(base, tmp_path, "--mask-token", "<|end|>")
    assert status == 2 and "is the EOS token, which rows contain" in output
    status, output = run(base, tmp_path, "--mask-token", "<|user|>")
    assert status == 2 and "the chat template writes the mask token 4 into every row" in output
    flags = ("--max-steps", "1", "--grad-accumulation-steps", "1", "--batch-size", "4", "--end-tail", "16")
    assert run(base, tmp_path, *flags, "--mask-token", "<|mask|>")[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["mask_token_id"] == 300


def test_options_and_objectives_that_a_family_does_not_have_are_refused(
    bases: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
):
    for flags, why in (
        (("--attention", "varlen"), "for packed rows"),
        (("--sequence-parallel", "2"), "not divided"),
        (("--compile", "on"), "not proved"),
    ):
        with pytest.raises(BadInput, match=why):
            checked_family(options(bases["dimba"], tmp_path, *flags), SFT)
    for flags in (("--end-tail", "8"), ("--mask-token", "<|end|>")):
        with pytest.raises(BadInput, match="a causal language model, in whose rows nothing is masked"):
            checked_family(options(tiny_checkpoint, tmp_path, *flags), SFT)
    refused = replace(DIMBA, objectives=("sft",)).refuses("dpo")
    assert refused and "a masked-diffusion language model, which `mode: dpo` does not train" in refused.problem


def test_a_mask_token_in_the_words_of_a_row_stays_text(bases: dict[str, Path], tmp_path: Path):
    words = [{"messages": [{"role": "user", "content": "Say <|mask|>"}, {"role": "assistant", "content": "<|mask|>!"}]}]
    flags = ("--max-steps", "1", "--grad-accumulation-steps", "1", "--batch-size", "2")
    status, output = run(bases["Dream"], tmp_path, *flags, rows=words * 2)
    assert (
        status == 0 and "control tokens that people wrote in 2 rows (`<|mask|>`): they are tokenised as text" in output
    )
    assert "the trained tokens may be masked" in output


def test_samples_depend_on_the_seed_alone_and_hold_no_mask_token(bases: dict[str, Path]):
    model = loaded(bases["llada"])
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]

    def drawn(seed: int, **more: Any) -> list[list[int]]:
        how = Unmasking(new_tokens=12, block=4, steps=2, temperature=1.0, seed=seed, **more)
        return sample(model, prompts, how).tokens

    one = drawn(1)
    assert one == drawn(1) and one != drawn(2) and one != drawn(1, guidance=2.0)
    assert all(len(each) == 12 and mask_id(model) not in each for each in one)
    ends = sorted(set(one[0]))
    cut = sample(model, prompts, Unmasking(new_tokens=12, block=4, steps=4), ends=ends).tokens
    assert all(token not in ends for each in cut for token in each[:-1])


@pytest.mark.proof
@pytest.mark.parametrize(("kind", "sharded"), [("dimba", False), ("llada", True)], ids=["DDP", "FSDP2"])
def test_two_processes_train_the_same_weights_as_one(
    kind: str, sharded: bool, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: tmp_path / "tokens")
    flags = ("--trust-remote-code", "--batch-size", "2", "--max-steps", "3", "--validation-split", "1")
    rows = [*CHATS, *CHATS[:5]]  # a multiple of nothing
    status, output = run(bases[kind], tmp_path / "one", *flags, "--grad-accumulation-steps", "4", rows=rows)
    assert status == 0, output
    jobs = Jobs(tmp_path)
    write_rows(tmp_path / "data.jsonl", rows)
    flags = (*flags, "--max-length", "128", "--grad-accumulation-steps", "2", "--learning-rate", "2e-5")
    jobs.train(bases[kind], "two", *flags, sharded=sharded)
    assert largest_difference(tmp_path / "one" / "out", tmp_path / "two") < 1e-6
    logs = [folder / "metrics.jsonl" for folder in (tmp_path / "one" / "out", tmp_path / "two")]
    one, two = ([json.loads(line) for line in log.read_text().splitlines()] for log in logs)
    for name in ("loss", "eval_loss", "num_tokens"):
        found = [[line[name] for line in lines if name in line] for lines in (one, two)]
        assert found[0] and found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.proof
@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_toy_model_answers_all_eight_prompts_it_was_tuned_on(kind: str, tmp_path: Path):
    assert trained(tmp_path, kind) == 0
    assert right(tmp_path) == 8


@pytest.mark.proof
def test_a_toy_dimba_answers_all_eight_prompts_and_its_bound_tends_to_0(tmp_path: Path):
    assert trained(tmp_path, "dimba", held_out=8) == 0
    assert right(tmp_path) == 8
    assert evaluations(tmp_path)[-1] < 0.25  # nats a token, of log 301 = 5.7
