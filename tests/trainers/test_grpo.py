"""GRPO: its gradient is the formula's, it learns from rewards, and it reports what prevents learning."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dimba.common.contract import EXIT_STOPPED, trained_files
from tests.conftest import REPOSITORY, Dimba, write_rows
from tests.trainers.learning import POLITE, World, accuracy, answers, endings, logged, sums

pytestmark = pytest.mark.slow
QUICK = ("--batch-size", "8", "--grad-accumulation-steps", "1", "--max-completion-length", "8", "--max-length", "128")


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, caches: Path) -> Iterator[None]:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(caches))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(base: Path, rows: Path, out: Path, *flags: object, status: int = 0) -> str:
    """The output of the trainer, in this process: importing its libraries takes longer than training."""
    from dimba.objectives.grpo import GRPO
    from dimba.trainers.command import run_trainer
    from dimba.trainers.objectives.grpo.train import train

    named = {"--base-checkpoint": base, "--dataset": rows, "--output-dir": out}
    argv = [str(each) for pair in named.items() for each in pair] + [str(each) for each in flags]
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        ended = run_trainer(train, GRPO.parse(argv))
    assert ended == status, output.getvalue()
    return output.getvalue()


@pytest.fixture(scope="module")
def some_sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"It is {n + n}."} for n in range(12)]
    answers = [{**row, "answer": str(2 * n)} for n, row in enumerate(rows)]
    return write_rows(tmp_path_factory.mktemp("sums") / "sums.jsonl", answers)


# The formula.


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_gradient_is_that_of_a_loss_written_by_hand(
    beta: float, tiny_checkpoint: Path, some_sums: Path, tmp_path: Path
):
    trainer = make_trainer(tiny_checkpoint, some_sums, tmp_path, beta=beta)
    batch = trainer._generate_and_score_completions([trainer.train_dataset[n // 4] for n in range(8)])
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, batch).backward()
    theirs = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    by_hand(trainer, batch, beta).backward()
    for name, weight in trainer.model.named_parameters():
        assert (weight.grad - theirs[name]).abs().max() < 1e-5, name
    assert max(float(grad.abs().max()) for grad in theirs.values()) > 1e-3, "nothing was compared"


def make_trainer(base: Path, rows: Path, out: Path, *, beta: float) -> Any:
    """A trainer with the length of a completion as its reward, and a reference that differs from the model."""
    from dimba.objectives.grpo import GRPO
    from dimba.trainers.models.loading import choose_compute
    from dimba.trainers.objectives.grpo import trainer as grpo_trainer
    from dimba.trainers.objectives.grpo.prompt_loading import load_prompts

    argv = ["--base-checkpoint", str(base), "--dataset", str(rows), "--output-dir", str(out), "--beta", str(beta)]
    options = GRPO.parse([*argv, *QUICK, "--num-generations", "4", "--reward", "numeric"])
    prompts = load_prompts(options, lambda _rows: None)
    trainer = grpo_trainer.make_trainer(options, prompts, [_Length()], choose_compute("cpu"), callbacks=[])
    if trainer.ref_model is not None:
        for weight in trainer.ref_model.parameters():
            weight.data += 0.01 * weight.data.sign()
    trainer.model.train()
    return trainer


class _Length:
    name = "letters"

    def __call__(self, completions: Any) -> list[float | None]:
        return [float(len(text)) for text in completions.texts]


def by_hand(trainer: Any, batch: dict[str, Any], beta: float) -> Any:
    """The token-level GRPO loss: minus the advantage of its group, over all sampled tokens, and the KL estimate."""
    import torch

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    size = batch["completion_ids"].shape[1]

    def log_probs(model: Any) -> Any:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -size - 1 : -1]
        return logits.log_softmax(-1).gather(-1, ids[:, -size:, None])[..., 0]

    texts = trainer.processing_class.batch_decode(
        [row[kept.bool()] for row, kept in zip(batch["completion_ids"], batch["completion_mask"], strict=True)],
        skip_special_tokens=True,
    )
    rewards = torch.tensor([float(len(text)) for text in texts]).view(-1, 4)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    ours = log_probs(trainer.model)
    ratio = (ours - ours.detach()).exp()
    gain = ratio * advantages.view(-1, 1)
    if beta:
        with torch.no_grad():
            theirs = log_probs(trainer.ref_model)  # of the reference
        # With the ratio, the gradient is that of the KL divergence itself (DeepSeek-V3.2).
        gain = gain - beta * ratio * ((theirs - ours).exp() - (theirs - ours) - 1)
    kept = batch["completion_mask"]
    return -(gain * kept).sum() / kept.sum()


# It learns.

_SUMS = ("--batch-size", "256", "--grad-accumulation-steps", "1", "--max-completion-length", "4", "--max-length", "64")


@pytest.fixture(scope="module")
def summing(tmp_path_factory: pytest.TempPathFactory, caches: Path) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
        return sums(tmp_path_factory.mktemp("sums"), seed=0)


@pytest.mark.proof
def test_it_learns_to_sum(summing: World, tmp_path: Path):
    """That it learns nothing from a random reward takes as long again: scripts/soak/learning.py."""
    assert learnt(summing, tmp_path / "sums") >= 0.15
    check_samples(tmp_path / "sums")


CHANCE = """
import random

rng = random.Random(0)


def chance(completions, **_):
    return [rng.random() for _ in completions]
"""


def learnt(world: World, out: Path, *flags: str) -> float:
    """The gain in the share of held-out sums that the policy gets right."""
    held_out = [json.loads(line) for line in world.rows.read_text().splitlines()][-400:]
    train = write_rows(out.with_suffix(".jsonl"), [json.loads(line) for line in world.rows.open()][:-400])
    run(world.policy, train, out, *_SUMS, "--max-steps", 400, "--learning-rate", 1e-4, *flags)
    return accuracy(out, held_out) - accuracy(world.policy, held_out)


def check_samples(out: Path) -> None:
    """Check every logged reward against its completion."""
    samples = logged(out, "samples.jsonl")
    steps = {sample["step"] for sample in samples}
    assert {1, 10, 400} <= steps and len(samples) == 256 * len(steps)
    texts = [sample["completion"].strip("\ufffd") for sample in samples]  # a partial character beside a number
    pairs = zip(texts, samples, strict=True)
    assert all(sample["reward"] == float(text == sample["reference"]) for text, sample in pairs)
    means = {line["step"]: line["reward"] for line in logged(out) if "reward" in line}
    for step in steps:
        rewards = [sample["reward"] for sample in samples if sample["step"] == step]
        assert sum(rewards) / len(rewards) == pytest.approx(means[step])


# Preferences.

_ENDINGS = (
    *("--batch-size", "64", "--grad-accumulation-steps", "1", "--max-completion-length", "16", "--max-length", "64"),
    *("--reward-epochs", "2", "--reward-learning-rate", "1e-3", "--learning-rate", "1e-4"),
)


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory, caches: Path) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
        return endings(tmp_path_factory.mktemp("endings"), seed=0)


@pytest.mark.proof
def test_a_reward_model_is_trained_evaluated_and_reused_and_teaches_polite_endings(ending: World, tmp_path: Path):
    right, politer, output = learnt_manners(ending, tmp_path / "out")
    assert right >= 0.95 and politer >= 0.3
    assert (
        "stage 1 of 2: a reward model" in output
        and "length bias: the chosen answer is the longer one in 100%" in output
    )
    lines = [line for line in logged(tmp_path / "out") if "win_rate" in line]
    assert lines[0]["win_rate"] < lines[-1]["win_rate"] and lines[-1]["kl"] > 0
    again = run(ending.policy, ending.rows, tmp_path / "again", *_ENDINGS, "--max-steps", 1)
    assert "reward model: reused" in again and "stage 1 of 2" not in again


def learnt_manners(world: World, out: Path, *flags: str) -> tuple[float, float, str]:
    """(share of held-out pairs that the reward model gets right, gain in polite samples, output)."""
    output = run(world.policy, world.rows, out, *_ENDINGS, "--max-steps", 60, *flags)
    found = re.search(r"right on ([\d.]+)% of", output)
    assert found, output
    asked = [json.loads(line)["prompt"] for line in world.rows.read_text().splitlines()]
    return float(found[1]) / 100, politeness(out, asked) - politeness(world.policy, asked), output


def politeness(policy: Path, asked: list[str]) -> float:
    """The share of sampled answers that end politely."""
    texts = answers(policy, asked, do_sample=True, seed=0)
    return sum(text.endswith(POLITE) for text in texts) / len(texts)


def test_a_reward_model_no_better_than_chance_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    rng = random.Random(0)
    sides = [rng.sample([f"It is {n}.", f"Is it {n}?"], 2) for n in range(60)]
    pairs = [{"prompt": f"What is {n}?", "chosen": one, "rejected": two} for n, (one, two) in enumerate(sides)]
    rows = write_rows(tmp_path / "pairs.jsonl", pairs)
    flags = (*QUICK, "--max-steps", 1, "--reward-learning-rate", "1e-7")
    output = run(tiny_checkpoint, rows, tmp_path / "out", *flags, status=2)
    assert (
        "GRPO would learn its errors" in output
        and "--allow-weak-reward" in output
        and not trained_files(tmp_path / "out")
    )
    assert "saved:" in run(tiny_checkpoint, rows, tmp_path / "out", *flags, "--allow-weak-reward")


def test_an_interrupted_reward_model_resumes(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dimba.trainers.objectives.callbacks import StopOnSignal

    pairs = [{"prompt": f"What was {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(60)]
    rows = write_rows(tmp_path / "pairs.jsonl", pairs)
    flags = (*QUICK, "--max-steps", 1, "--reward-learning-rate", "1e-3")
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "__init__", lambda self: setattr(self, "requested", True))
        output = run(tiny_checkpoint, rows, tmp_path / "out", *flags, status=EXIT_STOPPED)
    assert "stopping: saving checkpoint-1" in output and "stage 2" not in output
    output = run(tiny_checkpoint, rows, tmp_path / "out", *flags)
    assert "checkpoint-1" in output and "resuming the reward model from" in output and "stage 2 of 2" in output


@pytest.mark.proof
def test_two_processes_share_a_step_and_a_reward_model(tiny_checkpoint: Path, tmp_path: Path):
    pairs = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(60)]
    named = {
        "--base-checkpoint": tiny_checkpoint,
        "--dataset": write_rows(tmp_path / "pairs.jsonl", pairs),
        "--output-dir": tmp_path / "out",
        "--max-steps": 2,
        "--num-generations": 4,
    }
    flags = [*(str(each) for pair in named.items() for each in pair), *QUICK, "--device", "cpu", "--allow-weak-reward"]
    launcher = "accelerate launch --quiet --num_machines 1 --num_processes 2 --multi_gpu --main_process_port 0"
    script = str(REPOSITORY / "scripts" / "finetuning" / "finetune_grpo.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dimba.supervisor.entry", *launcher.split()),
            *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "dimba.supervisor.rank", script, *flags),
        ],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("a step: 4 prompts × 4 completions") == 1
    samples = [sample for sample in logged(tmp_path / "out", "samples.jsonl") if sample["step"] == 2]
    prompts = [sample["prompt"][-1]["content"] for sample in samples]
    assert len(samples) == 16 and {prompts.count(each) for each in prompts} == {4}
    assert len(list((tmp_path / "dimba" / "rewards").iterdir())) == 1


def test_similarity_is_reported_as_imitation(tiny_checkpoint: Path, tmp_path: Path):
    pairs = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(12)]
    rows = write_rows(tmp_path / "pairs.jsonl", pairs)
    output = run(tiny_checkpoint, rows, tmp_path / "out", *QUICK, "--max-steps", 1, "--reward", "similarity")
    assert "imitation, not correctness" in output and "step 1/1  reward (imitation) " in output
    assert "the reward (imitation) does not measure correctness" in output
    assert list(logged(tmp_path / "out", "samples.jsonl")[0]["rewards"]) == ["imitation_similarity"]


# One job.


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tiny_checkpoint: Path, some_sums: Path, tmp_path: Path
):
    flags = (*QUICK, "--use-lora", "--learning-rate", 1e-3, "--max-steps", 4, "--save-steps", 2)
    run(tiny_checkpoint, some_sums, tmp_path / "whole", *flags)
    run(
        tiny_checkpoint, some_sums, tmp_path / "again", *flags,
        "--resume-from-checkpoint", tmp_path / "whole" / "checkpoint-2",
    )  # fmt: skip
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "again")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_samples_of_steps_that_are_trained_again_are_kept_once(tmp_path: Path):
    from dimba.trainers.objectives.grpo.sample_log import SampleLog

    path = tmp_path / "samples.jsonl"
    lines = [json.dumps({"step": step, "completion": "a\u2028b"}, ensure_ascii=False) + "\n" for step in (1, 2, 3)]
    path.write_text("".join(lines) + '{"step": 3, "com', encoding="utf-8")
    log = SampleLog(path, every=1)
    for step in (3, 1):  # the second write drops nothing
        log.write(step, [])
    assert path.read_text(encoding="utf-8") == "".join(lines[:2])


def test_several_rewards_are_added_with_their_weights(tiny_checkpoint: Path, some_sums: Path, tmp_path: Path):
    flags = ("--reward", "regex:[0-9]", "length:4", "--reward-weights", 2, 0.5, "--num-generations", 4)
    run(tiny_checkpoint, some_sums, tmp_path / "out", *QUICK, "--max-steps", 1, *flags)
    for sample in logged(tmp_path / "out", "samples.jsonl"):
        found = float(bool(re.search("[0-9]", sample["completion"])))
        soft = -max(0, sample["tokens"] - 4) / 4
        assert sample["rewards"] == pytest.approx({"regex": found, "length": soft})
        assert sample["reward"] == pytest.approx(2 * found + 0.5 * soft)


LATER = """
calls = 0


def shouting(completions, log_extra, trainer_state, **_):
    global calls
    assert trainer_state.max_steps == 1
    calls += 1
    if calls > 3:
        raise KeyError("too late")
    for name, value in (("text", "MINE"), ("tokens", 999), ("row", "a row")):
        log_extra(name, [value] * len(completions))
    return [None if calls < 3 else 1.0 for _ in completions]
"""


def test_a_reward_that_fails_on_held_out_prompts_loses_no_model_and_cannot_overwrite_samples(
    tiny_checkpoint: Path, some_sums: Path, tmp_path: Path
):
    (tmp_path / "mine.py").write_text(LATER, encoding="utf-8")
    flags = (*QUICK, "--max-steps", 1, "--validation-split", 4, "--reward", f"{tmp_path}/mine.py:shouting")
    output = run(tiny_checkpoint, some_sums, tmp_path / "out", *flags, status=1)
    assert "held-out reward before training: none, no completion" in output and "KeyError: 'too late'" in output
    assert (tmp_path / "out" / "model.safetensors").is_file()
    for sample in logged(tmp_path / "out", "samples.jsonl"):
        assert sample["completion"] != "MINE" and sample["tokens"] <= 8 and sample["row"].startswith(str(some_sums))


def test_accumulation_grows_to_complete_groups_and_few_prompts_are_repeated(tiny_checkpoint: Path, tmp_path: Path):
    rows = write_rows(tmp_path / "few.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    flags = (*QUICK, "--num-generations", 6, "--batch-size", 4, "--max-steps", 1)
    output = run(tiny_checkpoint, rows, tmp_path / "out", *flags)
    assert (
        "gradient accumulation 1 → 3: a step then has complete groups" in output
        and "2 prompts × 6 completions" in output
    )
    assert "1 prompts are repeated to fill a step of 2" in output


def test_equal_rewards_and_cut_completions_are_warned_of(tiny_checkpoint: Path, some_sums: Path, tmp_path: Path):
    output = run(tiny_checkpoint, some_sums, tmp_path / "out", *QUICK, "--max-steps", 6, "--reward", "regex:not there")
    assert "in nearly every group all completions get the same reward" in output
    assert "nearly all completions are cut at --max-completion-length" in output


# Invalid input.

BAD_REWARDS = {
    "raises": ("def f(completions, **_):\n    raise KeyError('x')", "sums.jsonl:1: the reward `f` fails: KeyError"),
    "text": ("def f(completions, **_):\n    return ['1'] * len(completions)", "which is no number"),
    "nan": ("def f(completions, **_):\n    return [float('nan')] * len(completions)", "nothing can be learnt"),
    "length": ("def f(completions, **_):\n    return [1.0]", "1 values for 4 completions"),
    "import": ("import not_there\ndef f(completions, **_):\n    return []", "not_there"),
    "name": ("def g(completions, **_):\n    return []", "`f`"),
}


@pytest.mark.parametrize("name", BAD_REWARDS)
def test_an_unusable_reward_function_is_refused_before_sampling(
    name: str, tiny_checkpoint: Path, some_sums: Path, tmp_path: Path
):
    source, message = BAD_REWARDS[name]
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    flags = (*QUICK, "--max-steps", 1, "--reward", f"{tmp_path}/mine.py:f")
    output = run(tiny_checkpoint, some_sums, tmp_path / "out", *flags, status=2)
    assert message in output and "hint:" in output and not (tmp_path / "out").exists()


def test_a_reward_that_fails_while_training_ends_the_run_and_names_the_row(
    tiny_checkpoint: Path, some_sums: Path, tmp_path: Path
):
    source = "n = 0\ndef f(completions, **_):\n    global n\n    n += 1\n    return [1 / (3 - n)] * len(completions)"
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    flags = (*QUICK, "--max-steps", 4, "--reward", f"{tmp_path}/mine.py:f")
    output = run(tiny_checkpoint, some_sums, tmp_path / "out", *flags, status=1)
    assert "ZeroDivisionError" in output and "sums.jsonl:" in output


@pytest.mark.proof
def test_a_reward_that_fails_while_training_is_a_failed_run(
    tiny_checkpoint: Path, some_sums: Path, tmp_path: Path, dimba: Dimba
):
    source = "n = 0\ndef f(completions, **_):\n    global n\n    n += 1\n    return [1 / (2 - n)] * len(completions)"
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    (tmp_path / "job.yaml").write_text(
        f"version: 1\nmode: grpo\nbase_checkpoint: {tiny_checkpoint}\ndataset: {{path: {some_sums}}}\nmethod: lora\n"
        "training: {batch_size: 8, grad_accumulation_steps: 1, max_steps: 2, max_length: 128}\noutput_dir: out\n"
        'trainer_args: {max-completion-length: 8, reward: "mine.py:f"}\nresources: {gpus: none}\nrunner: process\n',
        encoding="utf-8",
    )
    done = dimba("launch", "job.yaml", "--trust-spec", cwd=tmp_path)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stdout + done.stderr
    [run] = json.loads(dimba("ps", "-a", "--json", cwd=tmp_path).stdout)
    assert (run["status"], run["exit_reason"], run["exit_code"]) == ("failed", "trainer_error", 1)


LONG = {"question": "What is " + "9 + " * 200 + "9?", "answer": "1809"}
WRONG = {
    "neither references nor pairs": ([{"prompt": "Q"}], (), "no reward fits"),
    "answers that no rule can check": ([{"question": "Q", "answer": "word " * 40}] * 3, (), "no rule can tell"),
    "a reward that needs an answer": ([{"prompt": "Q"}], ("--reward", "numeric"), "compares with the right answer"),
    "a reward that needs pairs": ([{"prompt": "Q"}], ("--reward", "preference"), "needs pairs"),
    "weights of another number": (
        [{"prompt": "Q"}],
        ("--reward", "length", "--reward-weights", 1, 2),
        "2 weights for 1",
    ),
    "a prompt without room": ([LONG, LONG], (), "2 of 2 prompts have more than 120 tokens"),
    "no prompt left": ([LONG], ("--on-long", "drop"), "no prompt is left to train on"),
    "no room at all": ([LONG], ("--max-completion-length", 128), "leaves no prompt any room"),
    "an answer without a number": (
        [{"question": "Q", "answer": "one"}, {"question": "Q", "answer": "1"}],
        ("--reward", "numeric"),
        "rows.jsonl:1: no number in the reference answer (`answer`)",
    ),
    "pairs that compare nothing": ([{"prompt": "Q", "chosen": "A", "rejected": "A"}] * 2, (), "2 of 2 pairs compare"),
    "vLLM on the CPU": ([{"prompt": "Q"}], ("--use-vllm",), "trains on the CPU"),
    "vLLM on a GPU of its own, and none samples": (
        [{"prompt": "Q"}],
        ("--sampler", "transformers", "--sampler-gpus", "1"),
        "only vLLM samples on GPUs of its own",
    ),
    "two samplers": ([{"prompt": "Q"}], ("--sampler", "continuous", "--use-vllm"), "cannot both sample"),
    "vLLM and 4 bits": ([{"prompt": "Q"}], ("--use-vllm", "--use-qlora"), "4 bits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_rows_and_options_without_anything_to_learn_are_refused(name: str, tiny_checkpoint: Path, tmp_path: Path):
    rows, flags, message = WRONG[name]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    output = run(tiny_checkpoint, data, tmp_path / "out", *QUICK, "--max-steps", 1, *flags, status=2)
    assert message in output and "hint:" in output and not (tmp_path / "out").exists()


def test_one_completion_per_prompt_is_refused(capsys: pytest.CaptureFixture[str]):
    from dimba.objectives.grpo import GRPO

    with pytest.raises(SystemExit):
        GRPO.parse(["--base-checkpoint", "b", "--dataset", "d", "--num-generations", "1"])
    assert "1 is less than 2" in capsys.readouterr().err
