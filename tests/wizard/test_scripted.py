import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dimba.spec import JobSpec, load_spec
from tests.conftest import QUESTIONS, REPOSITORY, Dimba, hollow_checkpoint, write_rows
from tests.hub import hub
from tests.plan.test_memory import CONFIG, large_checkpoint
from tests.wizard.conftest import EIGHT_80, ONE_8, TWO_24

ONLINE = {"HF_HUB_OFFLINE": "0"}


@pytest.fixture
def wizard(place: Path, dimba: Dimba):
    """Runs `dimba wizard --defaults …`, and loads the written spec as `validate` does."""

    def run(*flags: str, **environment: str) -> JobSpec:
        done = dimba("wizard", "--defaults", *flags, cwd=place, **environment)
        assert done.returncode == 0, done.stderr
        return load_spec(place / done.stdout.splitlines()[-1]).spec

    return run


@pytest.fixture
def refused(place: Path, dimba: Dimba):
    """Runs flags that must be refused with exit status 2, a hint and no file; returns the message."""

    def run(*flags: str, defaults: bool = True, **environment: str) -> str:
        done = dimba("wizard", *(["--defaults"] if defaults else []), *flags, cwd=place, **environment)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "hint: " in done.stderr
        assert not (place / "jobs").exists()
        return done.stderr

    return run


def test_defaults_ask_nothing_and_the_spec_plans(place: Path, dimba: Dimba):
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--out", "mine/job.yaml", cwd=place)
    assert (done.returncode, done.stdout) == (0, "mine/job.yaml\n")
    assert (place / "mine/job.schema.json").exists()
    assert dimba("validate", "mine/job.yaml", cwd=place).returncode == 0
    plan = dimba("plan", "mine/job.yaml", "--json", cwd=place)
    argv = json.loads(plan.stdout)["argv"]
    assert argv[argv.index("--dataset") + 1] == str(place / "qa.jsonl")
    assert "--use-qlora" in argv


def test_a_newer_model_type_asks_for_the_latest_releases(place: Path, dimba: Dimba):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "exaone"}
    (place / "checkpoints/base/config.json").write_text(json.dumps(config), encoding="utf-8")
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", cwd=place)
    assert "5.24.0 is the first that does; `container.pins: latest`" in " ".join(done.stderr.split())
    assert load_spec(place / done.stdout.splitlines()[-1]).spec.container.pins == "latest"


def test_the_file_is_short_commented_and_in_the_usual_order(place: Path, dimba: Dimba):
    dimba("wizard", "--defaults", "--dataset", "qa.jsonl", cwd=place, GPUS=TWO_24)
    lines = (place / "jobs/qa-lora.yaml").read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=./job.schema.json"
    assert [line.split(":")[0] for line in lines[1:] if not line.startswith(" ")] == [
        "version", "name", "mode", "base_checkpoint", "dataset", "method", "lora", "training", "output_dir", "trainer",
        "resources", "runner",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    assert "  learning_rate: 2.0e-4" in lines
    assert "resources: {gpus: all, vram_gb: 24}" in lines


@pytest.mark.parametrize(
    ("gpus", "method", "batch", "accumulation", "rank", "vram"),
    [
        (ONE_8, "qlora", 4, 16, 4, 8),
        (TWO_24, "lora", 8, 8, 16, 24),
        (EIGHT_80, "full", 8, 8, None, 80),
        ("none", "qlora", 2, 32, 4, None),
        ("RTX 3060:12288", "lora", 2, 32, 4, 12),
    ],
)
def test_the_gpus_of_the_machine_choose_the_defaults(
    wizard: Any, gpus: str, method: str, batch: int, accumulation: int, rank: int | None, vram: int | None
):
    spec = wizard("--dataset", "qa.jsonl", GPUS=gpus)
    assert (spec.method, spec.training.batch_size, spec.training.grad_accumulation_steps) == (
        method, batch, accumulation,
    )  # fmt: skip
    assert spec.resources.vram_gb == vram
    assert spec.resources.gpus == "all"
    if rank:
        assert (spec.lora.r, spec.lora.alpha) == (rank, 2 * rank)


@pytest.mark.parametrize("vram", ["24", "24GB", "24 gb", "24.0", "23.6"])
def test_a_vram_flag_wins_over_the_gpus_of_the_machine(wizard: Any, vram: str):
    spec = wizard("--dataset", "qa.jsonl", "--vram", vram, GPUS=ONE_8)
    assert (spec.method, spec.resources.vram_gb, spec.training.max_steps) == ("lora", 24, 3)


def test_every_answer_has_a_flag(place: Path, dimba: Dimba):
    """All of them on a pipe, without --defaults: none is missing, and each one arrives."""
    flags = (
        "--mode grpo --base-checkpoint checkpoints/base --dataset own.jsonl --columns prompt=ask response=reply "
        "--vram 40+ --gpus 0,1 --method lora --batch-size 4 --grad-accumulation-steps 6 --epochs 2.5 --max-steps 77 "
        "--learning-rate 3e-5 --lora-r 12 --lora-alpha 20 --reward numeric --num-generations 4 "
        "--output-dir checkpoints/mine --trainer scripts/finetuning/finetune_grpo.py --name mine --runner process"
    ).split()
    write_rows(place / "own.jsonl", [{"ask": row["question"], "reply": row["answer"]} for row in QUESTIONS])
    done = dimba("wizard", *flags, "--out", "a.yaml", "--no-launch", cwd=place, GPUS=EIGHT_80)
    assert done.returncode == 0, done.stderr
    spec = load_spec(place / "a.yaml").spec
    training = spec.training
    assert (spec.mode, spec.method, spec.name, spec.runner) == ("grpo", "lora", "mine", "process")
    assert (spec.dataset.path, spec.dataset.columns) == ("own.jsonl", {"prompt": "ask", "response": "reply"})
    assert (training.batch_size, training.grad_accumulation_steps, training.epochs, training.max_steps) == (
        4,
        6,
        2.5,
        77,
    )
    assert (training.learning_rate, spec.lora.r, spec.lora.alpha) == (3e-5, 12, 20)
    assert spec.trainer_args == {"reward": "numeric", "num-generations": 4}
    assert (spec.output_dir, spec.resources.gpus, spec.resources.vram_gb) == ("checkpoints/mine", [0, 1], 40)
    hub_flags = [
        "--dataset",
        "openai/gsm8k",
        "--dataset-config",
        "main",
        "--dataset-split",
        "test",
        "--hf-token",
        "yes",
    ]
    done = dimba("wizard", "--defaults", *hub_flags, "--out", "b.yaml", cwd=place, HF_TOKEN="hush-hush")
    assert done.returncode == 0, done.stderr
    spec = load_spec(place / "b.yaml").spec
    assert (spec.dataset.name, spec.dataset.config, spec.dataset.split) == ("openai/gsm8k", "main", "test")
    assert spec.container.env == ["HF_TOKEN"]


@pytest.mark.parametrize(
    ("choice", "mode", "hub_id", "split"),
    [
        ("1", "sft", "HuggingFaceH4/ultrachat_200k", "train_sft"),
        ("ultrachat_200k", "grpo", "HuggingFaceH4/ultrachat_200k", "train_sft"),
        ("2", "sft", "m-a-p/CodeFeedback-Filtered-Instruction", "train"),
        ("Code-Feedback", "grpo", "m-a-p/CodeFeedback-Filtered-Preference", "train"),
        ("OpenHermes-2.5", "sft", "teknium/OpenHermes-2.5", "train"),
        ("4", "grpo", "argilla/feedback-collection", "train"),
        ("Code-Feedback", "dpo", "m-a-p/CodeFeedback-Filtered-Preference", "train"),
        ("HuggingFaceH4/ultrachat_200k", "sft", "HuggingFaceH4/ultrachat_200k", "train_sft"),
        ("owner/questions", "sft", "owner/questions", "train"),
    ],
)
def test_the_menu_offers_these_data_sets(wizard: Any, choice: str, mode: str, hub_id: str, split: str):
    spec = wizard("--dataset", choice, "--mode", mode)
    assert (spec.dataset.name, spec.dataset.split) == (hub_id, split)


def test_an_unchecked_data_set_is_reported(place: Path, dimba: Dimba):
    done = dimba("wizard", "--defaults", "--dataset", "1", cwd=place)
    assert "not checked: HF_HUB_OFFLINE" in done.stderr
    done = dimba("wizard", "--defaults", "--dataset", "1", cwd=place, HF_ENDPOINT="http://127.0.0.1:9", **ONLINE)
    assert done.returncode == 0
    assert "not checked: the Hub did not answer" in done.stderr


def test_a_preset_that_the_hub_lacks_is_refused_with_similar_ones(place: Path, refused: Any):
    with hub({}) as address:
        message = refused("--mode", "grpo", "--dataset", "2", HF_ENDPOINT=address, **ONLINE)
        assert "m-a-p/CodeFeedback-Filtered-Preference" in message
        assert "RLHFlow/CodeUltraFeedback-standard" in message
        message = refused("--dataset", "4", HF_ENDPOINT=address, **ONLINE)
        assert "prometheus-eval/Feedback-Collection" in message
        message = refused("--dataset", "owner/missing", HF_ENDPOINT=address, **ONLINE)
        assert "owner/missing" in message


def test_a_data_set_of_the_hub_is_checked(place: Path, dimba: Dimba, tmp_path: Path):
    write_rows(tmp_path / "hub/train.jsonl", QUESTIONS)
    with hub({"datasets/some/questions": tmp_path / "hub"}) as address:
        there = {"HF_ENDPOINT": address, **ONLINE}
        done = dimba("wizard", "--defaults", "--dataset", "some/questions", cwd=place, **there)
        assert done.returncode == 0, done.stderr
        assert "not checked" not in done.stderr
        wrong = dimba(
            "wizard", "--defaults", "--dataset", "some/questions", "--dataset-split", "tset", cwd=place, **there
        )
        assert wrong.returncode == 2
        assert "--dataset-split" in wrong.stderr
        assert "train" in wrong.stderr


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--mode", "gpro"], "did you mean `grpo`?"),
        (["--base-checkpoint", "checkpoints/bsae"], "does not exist"),
        (["--dataset", "qa.json"], "does not exist"),
        (["--dataset", "data/missing.jsonl"], "does not exist"),
        (["--dataset", "./qa.jsnol"], ": qa.jsonl"),
        (["--dataset", "checkpoints/base"], "holds a model, not rows"),
        (["--dataset", "local"], "give its Hub id, or the file's path"),
        (["--dataset", "5"], "give its Hub id, or the file's path"),
        (["--dataset", "qa.jsonl", "--columns", "prompt"], "is not OURS=YOURS"),
        (["--dataset", "qa.jsonl", "--columns", "prompt=x"], "no column `x`"),
        (["--vram", "lots"], "is not a size in GB"),
        (["--gpus", "first"], "is not all, none, a number or a list"),
        (["--gpus", "0,0"], "names a GPU twice"),
        (["--dataset", "qa.jsonl", "--gpus", "3"], "this machine has 2"),
        (["--dataset", "qa.jsonl", "--gpus", "0,7"], "this machine has 2"),
        (["--method", "qlorra"], "did you mean `qlora`?"),
        (["--batch-size", "0"], "less than 1"),
        (["--batch-size", "many"], "not a whole number"),
        (["--grad-accumulation-steps", "1.5"], "not a whole number"),
        (["--epochs", "-1"], "not above zero"),
        (["--max-steps", "0"], "less than 1"),
        (["--learning-rate", "fast"], "not a number"),
        (["--learning-rate", "1e-320"], "less than 1e-12"),
        (["--epochs", "1e300"], "more than 1e+09"),
        (["--batch-size", "10000000000"], "more than 1000000000"),
        (["--mode", "grpo", "--reward", "mine.py:score"], "does not exist"),
        (["--lora-r", "0"], "less than 1"),
        (["--mode", "grpo", "--num-generations", "1"], "2 or more"),
        (["--mode", "grpo", "--reward", "numeri"], "did you mean `numeric`?"),
        (["--dataset", "qa.jsonl", "--output-dir", "checkpoints/base"], "already holds a model"),
        (["--dataset", "qa.jsonl", "--output-dir", "."], "the folder that dimba is run in"),
        (["--dataset", "qa.jsonl", "--trainer", "scripts/mine.py"], "does not exist"),
        (["--dataset", "qa.jsonl", "--name", "my job"], "letters, digits"),
        (["--runner", "kubernetes"], "is not known"),
        (["--runner", "podman"], "runner"),
        (["--dataset", "qa.jsonl", "--out", "checkpoints"], "is a folder"),
        (["--hf-token", "perhaps"], "is not known"),
    ],
)
def test_an_invalid_flag_is_refused_with_its_name_and_the_reason(refused: Any, flags: list[str], reason: str):
    message = refused(*flags, GPUS=TWO_24)
    assert reason in message
    assert flags[-2] in message or flags[-4] in message


def test_the_spec_is_written_without_an_engine_to_run_it(place: Path, dimba: Dimba):
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--runner", "docker", cwd=place)
    assert done.returncode == 0
    assert "this machine cannot run it" in done.stderr
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--runner", "docker", "--launch", cwd=place)
    assert done.returncode == 4


def test_a_pipe_gets_a_list_of_the_missing_flags(refused: Any):
    message = refused("--mode", "sft", "--dataset", "qa.jsonl", defaults=False)
    for flag in ("--base-checkpoint", "--vram", "--method", "--batch-size", "--lora-r", "--trainer", "--runner"):
        assert flag in message
    assert "--mode" not in message
    assert "--reward" not in message, "an SFT job has no reward"


def test_without_a_checkpoint_the_defaults_ask_for_its_flag(place: Path, refused: Any):
    (place / "checkpoints/base").rename(place / "elsewhere")
    assert "--base-checkpoint" in refused("--dataset", "qa.jsonl")


def test_the_newest_complete_checkpoint_of_a_folder_is_suggested(place: Path, refused: Any):
    for step in (9, 100, 200):
        hollow_checkpoint(place / f"runs_of/checkpoint-{step}")
    weights = place / "runs_of/checkpoint-200/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    message = refused("--base-checkpoint", "runs_of", "--dataset", "qa.jsonl")
    assert "folder of checkpoints (3)" in message
    assert "checkpoint-100" in message


def test_an_adapter_and_pickled_weights_are_refused_by_name(place: Path, refused: Any):
    (place / "adapter").mkdir()
    (place / "adapter/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "checkpoints/base"}))
    assert "holds an adapter" in refused("--base-checkpoint", "adapter", "--dataset", "qa.jsonl")
    pickled = hollow_checkpoint(place / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "only pickled weights" in refused("--base-checkpoint", "pickled", "--dataset", "qa.jsonl")


def _edit(path: Path, text: str) -> None:
    path.write_text(text)


def _lose_shard(base: Path) -> None:
    (base / "model.safetensors").rename(base / "there.safetensors")
    _edit(base / "model.safetensors.index.json", '{"weight_map": {"a": "gone", "b": "there.safetensors"}}')


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda base: _edit(base / "config.json", "{}"), "names no model"),
        (lambda base: _edit(base / "tokenizer.json", "{"), "broken tokenizer.json"),
        (lambda base: _edit(base / "tokenizer_config.json", "{"), "broken tokenizer_config.json"),
        (_lose_shard, "lacks gone"),
        (
            lambda base: (base / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b'{"a": {"dty'),
            "broken or cut off",
        ),
        (lambda base: [each.unlink() for each in base.glob("token*")], "has no tokenizer"),
    ],
    ids=["config", "tokenizer", "tokenizer config", "shard", "header", "no tokenizer"],
)
def test_a_broken_checkpoint_is_refused_with_the_broken_file(place: Path, refused: Any, break_it: Any, message: str):
    break_it(place / "checkpoints/base")
    assert message in refused("--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl")


def test_a_broken_link_is_not_a_hub_id(place: Path, refused: Any):
    (place / "loop").symlink_to("loop")
    assert "broken link" in refused("--base-checkpoint", "loop", "--dataset", "qa.jsonl")


def test_an_epochs_flag_switches_off_max_steps(wizard: Any):
    spec = wizard("--dataset", "qa.jsonl", "--epochs", "2")
    assert (spec.training.epochs, spec.training.max_steps) == (2, None)


def test_gpus_of_several_sizes_get_a_warning(place: Path, dimba: Dimba):
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", cwd=place, GPUS="A:8188;B:24564")
    assert "a budget of 8 GB fits all" in done.stderr


@pytest.mark.proof
def test_a_long_wait_is_reported_on_a_pipe_too(place: Path, dimba: Dimba):
    (place / "slow.py").write_text("import time; time.sleep(2.5)\n" + FULL_FT)
    flags = ["--dataset", "qa.jsonl", "--method", "full", "--runner", "process", "--trainer", "slow.py"]
    done = dimba("wizard", "--defaults", *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "asking slow.py for its flags (20 s at most) …" in done.stderr


def test_a_broken_trainer_is_reported_as_broken_not_as_lacking_a_flag(place: Path, refused: Any):
    (place / "broken.py").write_text("def (:\n")
    message = refused("--dataset", "qa.jsonl", "--trainer", "broken.py")
    assert "defines no flags" in message
    assert "SyntaxError" in message


def test_a_broken_row_is_refused_with_its_line(place: Path, refused: Any):
    with (place / "qa.jsonl").open("a") as file:
        file.write('{"question": "half')
    assert f"qa.jsonl:{len(QUESTIONS) + 1}: not valid JSON" in refused("--dataset", "qa.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("book.txt", "Once\n\nupon a time\n", "text, 2 rows"),
        ("qa.csv", "question;answer\nQ;A\nQ;A\n", "question/answer, 2 rows"),
        ("qa.json", '[{"instruction": "Q", "output": "A"}]', "instruction/output, 1 row"),
    ],
)
def test_every_kind_of_file_is_checked(place: Path, dimba: Dimba, name: str, content: str, facts: str):
    (place / name).write_text(content, encoding="utf-8")
    done = dimba("wizard", "--defaults", "--dataset", name, cwd=place)
    assert done.returncode == 0 and f"{name}: {facts}" in " ".join(done.stderr.split()), done.stderr


def test_a_folder_with_files_of_several_kinds_is_refused_with_a_pattern_to_choose(place: Path, refused: Any):
    (place / "data").mkdir()
    for name in ("b.csv", "a.jsonl.gz", "notes.md"):
        (place / "data" / name).write_text("x", encoding="utf-8")
    assert "several kinds: .jsonl, .csv" in refused("--dataset", "data/")


def test_rows_that_fit_two_formats_are_refused_with_the_flags_to_give(place: Path, refused: Any):
    write_rows(place / "two.jsonl", [{"query": "Q", "answer": "A", "prompt": "Q", "response": "A"}])
    message = " ".join(refused("--dataset", "two.jsonl").split())
    assert (
        "equally well" in message
        and "`--columns prompt=prompt response=response` or `--columns query=query answer=answer`" in message
    )


def test_columns_that_no_format_has_are_refused_with_the_flag_to_give(place: Path, refused: Any):
    write_rows(place / "odd.jsonl", [{"ask": "a", "reply": "b"}])
    assert "--columns prompt=… response=…" in refused("--dataset", "odd.jsonl")


def test_grpo_completes_its_groups_and_reports_it(place: Path, dimba: Dimba):
    flags = "--mode grpo --dataset qa.jsonl --batch-size 3 --grad-accumulation-steps 5 --num-generations 4".split()
    done = dimba("wizard", "--defaults", *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "gradient accumulation 5 → 8" in done.stderr
    spec = load_spec(place / done.stdout.strip()).spec
    assert spec.training.grad_accumulation_steps == 8
    assert spec.trainer_args["num-generations"] == 4
    assert spec.training.learning_rate == 1e-5


def test_grpo_starts_from_prompts_alone(wizard: Any, place: Path, dimba: Dimba):
    write_rows(place / "prompts.jsonl", [{"prompt": "What is 2 + 3?", "answer": "5"}] * 3)
    spec = wizard("--mode", "grpo", "--dataset", "prompts.jsonl", "--out", "p.yaml")
    assert spec.trainer_args == {"reward": "auto", "num-generations": 8}
    assert spec.output_dir == "checkpoints/finetune_grpo_qlora"
    assert dimba("plan", "p.yaml", cwd=place).returncode == 0
    planned = dimba("plan", "p.yaml", cwd=place)
    assert "8 completions per step" in planned.stdout


def test_dpo_starts_from_pairs(wizard: Any, refused: Any, place: Path, dimba: Dimba):
    assert "no `chosen` and no `rejected`" in refused("--mode", "dpo", "--dataset", "qa.jsonl")
    rows = [{"ask": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(3)]
    write_rows(place / "pairs.jsonl", rows)
    columns = ("--columns", "prompt=ask")
    spec = wizard("--mode", "dpo", "--dataset", "pairs.jsonl", *columns, "--out", "p.yaml", GPUS=TWO_24)
    assert (spec.mode, spec.output_dir) == ("dpo", "checkpoints/finetune_dpo_lora")
    assert (spec.training.learning_rate, spec.training.epochs) == (5e-6, 1)
    assert spec.trainer == "scripts/finetuning/finetune_dpo.py" and not spec.trainer_args
    assert dimba("validate", "p.yaml", cwd=place).returncode == 0
    planned = dimba("plan", "p.yaml", "--json", cwd=place)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["data"]["summary"]["format"] == "prompt/chosen/rejected"


@pytest.mark.parametrize(
    ("mode", "rows", "vram", "steps"),
    [
        ("sft", 2000, 4, 96),
        ("sft", 40_000, 4, 1000),
        ("sft", 2000, 24, 96),
        ("grpo", 2000, 4, 500),
        ("grpo", 40, 4, 10),
    ],
)
def test_the_tables_steps_are_a_ceiling_of_the_usual_passes(
    wizard: Any, place: Path, mode: str, rows: int, vram: int, steps: int
):
    row = {"question": "How many?", "answer": "#### 1"}
    (place / "many.jsonl").write_text((json.dumps(row) + "\n") * rows)
    spec = wizard("--mode", mode, "--dataset", "many.jsonl", "--method", "lora", "--vram", str(vram))
    assert spec.training.max_steps == steps


def test_max_steps_of_many_passes_gets_a_warning(place: Path, dimba: Dimba):
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--max-steps", "1000", cwd=place)
    assert "1,000 steps are 1,000 passes over the data: max steps `none` trains 3 epochs instead" in done.stderr


def test_an_ignored_flag_is_reported(place: Path, dimba: Dimba):
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--method", "full", "--lora-r", "8", cwd=place)
    assert done.returncode == 0
    assert "ignored: --lora-r 8" in done.stderr


def test_a_used_output_folder_gets_a_number(wizard: Any, place: Path):
    hollow_checkpoint(place / "checkpoints/finetune_sft_qlora")
    assert wizard("--dataset", "qa.jsonl").output_dir == "checkpoints/finetune_sft_qlora-2"


def test_an_existing_spec_is_backed_up(place: Path, dimba: Dimba):
    (place / "job.yaml").write_text("mine: 1\n")
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--out", "job.yaml", cwd=place)
    assert done.returncode == 0
    assert (place / "job.yaml.bak").read_text() == "mine: 1\n"
    assert "kept as job.yaml.bak" in done.stderr
    second = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", cwd=place)
    third = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", cwd=place)
    again = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--lora-r", "2", "--out", "job.yaml", cwd=place)
    assert "kept as job.yaml.bak1" in again.stderr
    assert (place / "job.yaml.bak").read_text() == "mine: 1\n"
    assert (second.stdout, third.stdout) == ("jobs/qa-qlora.yaml\n", "jobs/qa-qlora-2.yaml\n")


def test_a_short_context_limits_the_length_of_rows(wizard: Any, place: Path):
    config = place / "checkpoints/base/config.json"
    config.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 256}))
    assert wizard("--dataset", "qa.jsonl").training.max_length == 256


def test_the_token_is_named_and_never_written(wizard: Any, place: Path):
    secret = "hf_" + "a" * 30
    spec = wizard("--dataset", "1", "--hf-token", "yes", "--out", "t.yaml", HF_TOKEN=secret)
    assert spec.container.env == ["HF_TOKEN"]
    assert secret not in (place / "t.yaml").read_text()
    assert wizard("--dataset", "1", HF_TOKEN=secret).container.env == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")
def test_root_writes_files_owned_by_the_folders_owner(place: Path, dimba: Dimba):
    for path in (place, *place.rglob("*")):
        os.chown(path, 4321, 4321)
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", cwd=place)
    assert done.returncode == 0, done.stderr
    for path in (place / "jobs", *(place / "jobs").iterdir()):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (4321, 4321), path
        assert stat.S_IMODE(status.st_mode) & 0o400


TRAINER = """\
import argparse
parser = argparse.ArgumentParser()
{flags}
parser.parse_args()
"""


def _trainer(path: Path, *flags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(f"parser.add_argument({flag!r})" for flag in flags)
    path.write_text(TRAINER.format(flags=text))
    return path


def test_a_value_without_a_flag_of_the_trainer_is_omitted_and_reported(place: Path, dimba: Dimba):
    _trainer(place / "scripts/small.py", "--model", "--train-file", "--qlora", "--lr", "--mode")
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--trainer", "scripts/small.py", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "training.batch_size" in done.stderr
    assert "no flag for it" in done.stderr
    assert "--train-file" in done.stderr


def test_a_trainer_without_a_flag_for_the_data_is_refused(place: Path, refused: Any):
    _trainer(place / "scripts/nothing.py", "--model", "--qlora")
    assert "the trainer has no flag for it" in refused("--dataset", "qa.jsonl", "--trainer", "scripts/nothing.py")


def test_rewards_are_passed_only_to_a_trainer_with_their_flag(wizard: Any, place: Path):
    _trainer(place / "scripts/g.py", "--model", "--dataset", "--qlora", "--num-generations")
    spec = wizard("--mode", "grpo", "--dataset", "qa.jsonl", "--trainer", "scripts/g.py")
    assert spec.trainer_args == {"num-generations": 8}


CLICK = """\
import click
@click.command()
@click.option("--model", "-m", required=True)
@click.option("--train-file", help="a file")
@click.option("--mode", type=click.Choice(["sft", "grpo"]))
@click.option("--lora/--no-lora")
def main(**_options): ...
main()
"""
FULL_FT = """\
import argparse
p = argparse.ArgumentParser(epilog="Run it with --lr 1e-4 on --num-gpus 8.")
for name in ("--mode", "--base_model", "--data_path", "--max_steps", "--output_dir"): p.add_argument(name)
p.add_argument("--full-ft", action="store_true", help="train every weight")
p.parse_args()
"""
CRASHES = """\
import gpu_library_that_is_not_here
import argparse
p = argparse.ArgumentParser()
print("--lr")
for name in ("--model", "--dataset-name", "--use-lora"):
    p.add_argument(name)
p.parse_args()
"""


@pytest.mark.parametrize(
    ("source", "method", "passed", "omitted", "found_in"),
    [
        (CLICK, "lora", ["--mode sft", "--train-file", "--lora"], "training.epochs", "--help"),
        (
            FULL_FT,
            "full",
            ["--mode sft", "--base_model", "--data_path", "--full-ft"],
            "training.learning_rate",
            "--help",
        ),
        (
            CRASHES,
            "lora",
            ["--model", "--dataset-name", "--use-lora"],
            "training.learning_rate",
            "source, as its --help ended",
        ),
    ],
    ids=["click", "mode and full-ft", "help that crashes"],
)
def test_custom_trainers_of_any_kind_get_their_flags(
    place: Path, dimba: Dimba, source: str, method: str, passed: list[str], omitted: str, found_in: str
):
    (place / "mine.py").write_text(source)
    done = dimba("wizard", "--defaults", "--dataset", "qa.jsonl", "--method", method, "--trainer", "mine.py", cwd=place)
    assert done.returncode == 0, done.stderr
    command = next(line for line in done.stderr.splitlines() if line.strip().startswith("command"))
    assert all(f" {each}" in command for each in passed), command
    assert f"{omitted} " in done.stderr.partition("omitted")[2]
    assert f"found in the trainer's {found_in}" in done.stderr


def test_dimbas_own_trainer_can_be_named_by_its_path(wizard: Any):
    spec = wizard("--dataset", "qa.jsonl", "--trainer", "scripts/finetuning/finetune_sft.py")
    assert spec.trainer == "scripts/finetuning/finetune_sft.py"


def test_column_names_may_have_blanks(wizard: Any, place: Path):
    write_rows(place / "odd.jsonl", [{"the question": "a", "the, answer": "b"}])
    spec = wizard("--dataset", "odd.jsonl", "--columns", "prompt=the question", "response=the, answer")
    assert spec.dataset.columns == {"prompt": "the question", "response": "the, answer"}


def test_columns_are_checked_on_the_hub_too(place: Path, refused: Any, tmp_path: Path):
    write_rows(tmp_path / "hub/train.jsonl", QUESTIONS)
    with hub({"datasets/some/questions": tmp_path / "hub"}) as address:
        flags = ["--dataset", "some/questions", "--columns", "prompt=nope", "response=answer"]
        message = refused(*flags, HF_ENDPOINT=address, **ONLINE)
    assert "--columns" in message
    assert "no column `nope`" in message


def test_a_batch_that_exceeds_the_memory_is_not_the_default(wizard: Any, place: Path):
    base = large_checkpoint(place / "large", CONFIG)
    flags = ["--dataset", "qa.jsonl", "--base-checkpoint", str(base), "--vram", "8"]
    small, roomy = (wizard(*flags, "--name", gpus[0], GPUS=gpus[1]) for gpus in (("a", ONE_8), ("b", EIGHT_80)))
    assert small.training.batch_size == "auto"
    assert roomy.training.batch_size == 4


def test_gpus_none_takes_the_defaults_of_the_cpu(wizard: Any):
    spec = wizard("--dataset", "qa.jsonl", "--gpus", "none", GPUS=EIGHT_80)
    assert (spec.method, spec.resources.gpus, spec.resources.vram_gb) == ("qlora", "none", None)


def test_a_closed_stdin_is_treated_as_a_pipe(place: Path):
    command = f"exec {sys.executable} -m dimba wizard --mode sft <&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=place, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "--base-checkpoint" in done.stderr


def test_control_characters_in_data_never_reach_the_terminal(place: Path, dimba: Dimba):
    write_rows(place / "evil.jsonl", [{"\x1b]0;owned\x07": 1, "x": 2}])
    done = dimba("wizard", "--defaults", "--dataset", "evil.jsonl", cwd=place)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_batch_size_auto_stays_in_the_spec_and_its_number_is_reported(place: Path, dimba: Dimba):
    flags = "--dataset qa.jsonl --method lora --batch-size auto --out mine/job.yaml".split()
    done = dimba("wizard", "--defaults", *flags, cwd=place, GPUS=TWO_24)
    assert done.returncode == 0 and "batch_size auto: " in done.stderr, done.stderr
    text = (place / "mine/job.yaml").read_text()
    assert "batch_size: auto" in text and "grad_accumulation_steps" not in text
    plan = dimba("plan", "mine/job.yaml", "--json", cwd=place, GPUS=TWO_24)
    planned = json.loads(plan.stdout)
    assert planned["steps"]["effective_batch"] == 64 and any("batch_size auto" in note for note in planned["notes"])
