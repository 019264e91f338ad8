"""GRPO of masked-diffusion bases: its estimate, its two losses and its samples, by hand and in short runs."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimba.common.errors import BadInput
from dimba.objectives.grpo import GRPO
from dimba.trainers.command import run_trainer
from dimba.trainers.models.families import checked_family
from dimba.trainers.models.loading import choose_compute
from dimba.trainers.models.masked_diffusion.forward import logits_of, mask_id
from dimba.trainers.models.masked_diffusion.noise import drawn_prompts
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.objectives.grpo.train import train
from dimba.trainers.objectives.grpo.trainer import make_trainer
from dimba.trainers.objectives.grpo.weighted import group_weights
from tests.conftest import write_rows
from tests.trainers.masked.bases import make_masked
from tests.trainers.test_sharding import Jobs
from tests.weights import largest_difference

pytestmark = pytest.mark.slow
KINDS = ("dimba", "llada", "Dream")
QUICK = ("--batch-size", "8", "--grad-accumulation-steps", "1", "--num-generations", "4", "--max-length", "128")
SHORT = ("--max-completion-length", "10", "--block-length", "4", "--diffusion-steps", "2")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_masked(folder / kind, kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: tmp_path / "tokens")
    yield


def rows(folder: Path) -> Path:
    return write_rows(
        folder / "data.jsonl", [{"question": f"{'? ' * n}{n} + {n}", "answer": str(2 * n)} for n in range(9)]
    )


def options(base: Path, folder: Path, *flags: str) -> Any:
    named = ["--base-checkpoint", str(base), "--dataset", str(rows(folder)), "--output-dir", str(folder / "out")]
    return GRPO.parse([*named, *QUICK, *SHORT, "--trust-remote-code", "--device", "cpu", "--reward", "numeric", *flags])


class _Length:
    name = "letters"

    def __call__(self, completions: Any) -> list[float | None]:
        return [float(len(ids)) for ids in completions.token_ids]


def made(base: Path, folder: Path, *flags: str) -> Any:
    """A trainer with the length of a completion as its reward."""
    found = options(base, folder, *flags)
    prompts = load_prompts(found, lambda _rows: None)
    with redirect_stdout(io.StringIO()):
        trainer = make_trainer(found, prompts, [_Length()], choose_compute("cpu"), callbacks=[])
    trainer.model.train()
    return trainer


def sampled(trainer: Any) -> dict[str, Any]:
    """A batch of two prompts of other lengths, four completions each."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.eos_token_ids = list(range(0, 300, 8))  # a random model then ends some of its completions early
    return dict(trainer._generate_and_score_completions([trainer.train_dataset[n // 4 * 5] for n in range(8)]))


def estimates(trainer: Any, batch: dict[str, Any], size: int = 8) -> tuple[Any, Any]:
    """(log-probabilities, entropies) as the trainer has them, of `size` rows at once."""
    ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], dim=1) for name in ("ids", "mask"))
    tokens = batch["completion_ids"].shape[1]
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, tokens, batch_size=size, compute_entropy=True
    )
    return logps, entropies


def by_hand(trainer: Any, batch: dict[str, Any], model: Any, row: int) -> Any:
    """Log-probabilities [tokens, vocabulary] of a completion: a row alone, all of its last block masked."""
    parts = [batch[f"{name}_ids"][row][batch[f"{name}_mask"][row].bool()] for name in ("prompt", "completion")]
    ids, length = torch.cat(parts)[None], len(parts[1])
    hidden = drawn_prompts(
        trainer.args.seed, trainer.state.global_step, ids, torch.ones_like(ids), trainer._p_mask_prompt
    )
    hidden[:, -length:] = True
    noised = ids.masked_fill(hidden, mask_id(trainer._base))
    behind = min(-(-length // 4) * 4, 10) - length
    noised = torch.nn.functional.pad(noised, (0, behind), value=mask_id(trainer._base))
    logits = logits_of(model, noised, torch.ones_like(noised), torch.ones(1))[0, len(parts[0]) :][:length]
    return (logits / trainer.temperature).log_softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_is_scored_by_one_forward_pass_with_all_of_it_masked(
    kind: str, bases: dict[str, Path], tmp_path: Path
):
    trainer = made(bases[kind], tmp_path, "--temperature", "0.7")
    batch = sampled(trainer)
    lengths = batch["completion_mask"].sum(1).tolist()
    assert len(set(lengths)) > 1, "completions of one length prove less"
    with torch.no_grad():
        logps, entropies = estimates(trainer, batch, size=3)
        for row, length in enumerate(lengths):
            expected = by_hand(trainer, batch, trainer.model, row)
            chosen = expected.gather(-1, batch["completion_ids"][row][:length, None])[:, 0]
            assert torch.allclose(logps[row, :length], chosen, atol=1e-4)
            assert torch.allclose(entropies[row, :length], -(expected.exp() * expected).sum(-1), atol=1e-4)
            assert not logps[row, length:].any()


def test_every_policy_sees_a_row_under_the_same_masks_and_each_step_has_new_ones(
    bases: dict[str, Path], tmp_path: Path
):
    trainer = made(bases["llada"], tmp_path, "--use-lora", "--beta", "0.1", "--p-mask-prompt", "0.5")
    batch = sampled(trainer)
    with torch.no_grad():
        logps, _ = estimates(trainer, batch)
        assert logps.equal(batch["ref_per_token_logps"]), "a new adapter changes nothing, and nor do masks"
        assert (logps - estimates(trainer, batch)[0]).exp().equal(torch.ones_like(logps)), "ratios begin at 1"
        trainer.state.global_step = 1
        assert not logps.allclose(estimates(trainer, batch)[0])
        trainer.state.global_step, trainer.args.seed = 0, 43
        assert not logps.allclose(estimates(trainer, batch)[0])
        trainer._p_mask_prompt = 0.0
        plain, _ = estimates(trainer, batch)
        trainer.state.global_step = 1
        assert plain.equal(estimates(trainer, batch)[0]), "without masked prompts nothing is drawn"


def test_masks_of_a_prompt_are_as_many_as_asked_for():
    ids = torch.arange(400_000).view(100, -1)
    found = drawn_prompts(0, 0, ids, torch.ones_like(ids), 0.15)
    assert 0.149 < float(found.float().mean()) < 0.151 and not found[0].equal(found[1])


@pytest.mark.parametrize("loss", ["dapo", "wd1"])
@pytest.mark.parametrize("beta", ["0", "0.1"])
def test_the_gradient_is_that_of_a_loss_written_by_hand(loss: str, beta: str, bases: dict[str, Path], tmp_path: Path):
    trainer = made(bases["llada"], tmp_path, "--loss-type", loss, "--beta", beta)
    if trainer.ref_model is not None:
        for weight in trainer.ref_model.parameters():
            weight.data += 0.01 * weight.data.sign()
    batch = sampled(trainer)
    trainer.compute_loss(trainer.model, batch).backward()
    theirs = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    trainer.model.zero_grad()
    loss_by_hand(trainer, batch, loss, float(beta)).backward()
    for name, weight in trainer.model.named_parameters():
        if name in theirs:
            assert (weight.grad - theirs[name]).abs().max() < 1e-4 * max(1.0, float(weight.grad.abs().max())), name
    assert max(float(grad.abs().max()) for grad in theirs.values()) > 1e-3, "nothing was compared"


def loss_by_hand(trainer: Any, batch: dict[str, Any], kind: str, beta: float) -> Any:
    """dapo: a mean over all tokens. wd1: of a completion the sum over its tokens, of prompts the mean."""
    lengths = batch["completion_mask"].sum(1).tolist()
    rewards = torch.tensor(lengths, dtype=torch.float32).view(-1, 4)
    advantages = rewards - rewards.mean(1, keepdim=True)
    if kind == "wd1":
        weights = (advantages.softmax(1) - (-advantages).softmax(1)).flatten()
    else:
        weights = (advantages / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    total = torch.zeros(())
    for row, length in enumerate(lengths):
        chosen = batch["completion_ids"][row][:length, None]
        ours = by_hand(trainer, batch, trainer.model, row).gather(-1, chosen)[:, 0]
        gain = (weights[row] * ours).sum()
        if beta:
            with torch.no_grad():
                theirs = by_hand(trainer, batch, trainer.ref_model, row).gather(-1, chosen)[:, 0]
            gap = theirs - ours
            ratio = (ours - ours.detach()).exp()
            # wd1 takes the mean over prompts, GRPO's divergence that over completions.
            gain = gain - beta * (ratio * (gap.exp() - gap - 1)).sum() / (4 if kind == "wd1" else 1)
        total = total - gain
    return total / (sum(lengths) if kind == "dapo" else len(rewards))


def test_wd1_weighs_by_softmaxes_over_a_group_and_leaves_out_what_no_reward_scores():
    advantages, unscored = torch.tensor([1.0, -1.0, 0.0, 0.0, 2.0, -2.0, 0.0, 0.0]), torch.zeros(8, dtype=torch.bool)
    unscored[3] = unscored[6] = unscored[7] = True
    found = group_weights(advantages, unscored, 4)
    e = torch.tensor([1.0, -1.0, 0.0]).exp()
    assert torch.allclose(found[:3], e / e.sum() - e[[1, 0, 2]] / e.sum()) and not found[3] and not found[6:].any()
    assert found[4] == -found[5] and torch.allclose(found[4], torch.tensor(4.0).sigmoid() * 2 - 1)
    assert not group_weights(advantages[:4], torch.ones(4, dtype=torch.bool), 4).any()


def test_completions_depend_on_the_step_and_the_place_and_not_on_the_batch(bases: dict[str, Path], tmp_path: Path):
    one, other = (made(bases["dimba"], tmp_path, "--batch-size", size) for size in ("8", "4"))
    prompts = [list(one._prompts[n // 4].ids) for n in range(8)]
    found = one._sample_by_model(prompts)[0]
    assert found == other._sample_by_model(prompts)[0] and found[0] != found[1]
    one.state.global_step = 1
    assert found != one._sample_by_model(prompts)[0]
    assert all(1 <= len(each) <= 10 and mask_id(one._base) not in each for each in found)


def test_options_of_the_other_family_are_refused_with_the_reason(
    bases: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
):
    for flags in (("--sampler", "vllm"), ("--sampler", "continuous"), ("--use-vllm",), ("--sampler-gpus", "1")):
        with pytest.raises(BadInput, match="by its own sampler"):
            checked_family(options(bases["llada"], tmp_path, *flags), GRPO)
    for flags in (("--block-length", "8"), ("--p-mask-prompt", "0"), ("--guidance", "1"), ("--diffusion-steps", "3")):
        plain = GRPO.parse(["--base-checkpoint", str(tiny_checkpoint), "--dataset", str(rows(tmp_path)), *flags])
        with pytest.raises(BadInput, match="in whose rows nothing is masked"):
            checked_family(plain, GRPO)
    plain = GRPO.parse(
        ["--base-checkpoint", str(tiny_checkpoint), "--dataset", str(rows(tmp_path)), "--loss-type", "wd1"]
    )
    with pytest.raises(BadInput, match="a causal model's ratios are exact"):
        checked_family(plain, GRPO)


def test_pairs_that_would_need_a_reward_model_on_the_base_are_refused(bases: dict[str, Path], tmp_path: Path):
    pairs = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(12)]
    given = write_rows(tmp_path / "pairs.jsonl", pairs)
    status, output = run(bases["llada"], tmp_path, "--dataset", str(given), "--reward", "auto")
    assert status == 2 and "cannot become a reward model" in output and "--reward-model" in output


def test_prompts_that_hold_the_mask_token_are_refused(bases: dict[str, Path], tmp_path: Path):
    status, output = run(bases["llada"], tmp_path, "--mask-token", "<|user|>")
    assert status == 2 and "the chat template writes the mask token 4 into every row" in output


def run(base: Path, folder: Path, *flags: str) -> tuple[int, str]:
    folder.mkdir(exist_ok=True)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = run_trainer(train, options(base, folder, *flags))
    return status, output.getvalue()


@pytest.mark.proof
@pytest.mark.parametrize(
    ("kind", "flags"),
    [("dimba", ("--use-lora",)), ("llada", ("--beta", "0.1")), ("Dream", ("--use-qlora", "--loss-type", "wd1"))],
    ids=KINDS,
)
def test_a_run_resumes_to_the_last_bit(kind: str, flags: tuple[str, ...], bases: dict[str, Path], tmp_path: Path):
    given = (*flags, "--reward", "length:6", "--learning-rate", "1e-3", "--max-steps", "4", "--save-steps", "2")
    given = (*given, "--validation-split", "2")
    status, output = run(bases[kind], tmp_path, *given)
    assert status == 0 and "learned: " in output and "held-out reward after training" in output, output
    assert "log-probabilities by the head over masked tokens only" in output
    out = tmp_path / "out"
    [file] = [*out.glob("model.safetensors"), *out.glob("adapter_model.safetensors")]
    assert not (out / "generation_config.json").exists(), "it has no `generate`"
    complete, samples = load_file(file), (out / "samples.jsonl").read_text()
    for each in [*out.glob("*.*"), out / "checkpoint-4"]:
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    status, output = run(bases[kind], tmp_path, *given, "--resume-from-checkpoint", str(out))
    assert status == 0, output
    again = load_file(file)
    assert all(again[name].equal(complete[name]) for name in complete)
    last = [line for line in samples.splitlines() if json.loads(line)["step"] == 4]
    assert last and last == (out / "samples.jsonl").read_text().splitlines()[-len(last) :]


@pytest.mark.proof
@pytest.mark.parametrize(
    ("flags", "sharded"), [(("--loss-type", "wd1"), False), (("--beta", "0.1"), True)], ids=["DDP", "FSDP2"]
)
def test_two_processes_train_the_same_weights_as_one(
    flags: tuple[str, ...], sharded: bool, bases: dict[str, Path], tmp_path: Path
):
    flags = ("--reward", "length:6", "--max-steps", "3", "--learning-rate", "1e-3", *flags)
    assert run(bases["llada"], tmp_path / "one", *flags, "--batch-size", "16")[0] == 0
    rows(tmp_path)
    given = (*QUICK, *SHORT, "--trust-remote-code", *flags)
    Jobs(tmp_path).train(bases["llada"], "two", *given, mode="grpo", sharded=sharded)
    assert largest_difference(tmp_path / "one" / "out", tmp_path / "two") < 1e-5
