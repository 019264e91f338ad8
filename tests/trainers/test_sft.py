"""SFT on a tiny Llama: it learns, the result loads with plain libraries, and a signal stops and saves it."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.conftest import NO_ENGINE, QUESTIONS, REPOSITORY, SHARED_DATA, Dimba, write_rows

SCRIPT = REPOSITORY / "scripts" / "finetuning" / "finetune_sft.py"
pytestmark = pytest.mark.slow


def command(base: Path, data: Path, out: Path, *flags: str) -> list[str]:
    named = {"--base-checkpoint": base, "--dataset": data, "--output-dir": out}
    return [sys.executable, str(SCRIPT), *(str(each) for pair in named.items() for each in pair), *flags]


@pytest.fixture(autouse=True)
def _own_tokens(monkeypatch: pytest.MonkeyPatch, caches: Path) -> None:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")


def run(*arguments: object, status: int = 0) -> str:
    """The output of the trainer, in this process: importing its libraries takes longer than training."""
    from dimba.objectives.sft import SFT
    from dimba.trainers.command import run_trainer
    from dimba.trainers.objectives.sft.train import train

    output = io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with redirect_stdout(output), redirect_stderr(output):
            ended = run_trainer(train, SFT.parse(command(*arguments)[2:]))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert ended == status, output.getvalue()
    return output.getvalue()


SHORT = ("--batch-size", "2", "--grad-accumulation-steps", "2", "--max-steps", "4", "--max-length", "256")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "data.jsonl", QUESTIONS)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_full_fine_tuning_learns_and_loads_with_plain_transformers(tiny_checkpoint: Path, data: Path, tmp_path: Path):
    flags = ("--batch-size", "4", "--grad-accumulation-steps", "1", "--num-epochs", "15", "--learning-rate", "3e-3")
    output = run(tiny_checkpoint, data, tmp_path / "out", *flags)
    assert "12 rows" in output and "[[It is 0.<|end|>]]" in output
    lines = metrics(tmp_path / "out")
    assert lines[-1]["step"] == 45 and lines[-1]["loss"] < 0.2 * lines[0]["loss"]
    assert all(line["tokens_per_second"] > 0 for line in lines)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    chat = [{"role": "user", "content": QUESTIONS[3]["question"]}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == QUESTIONS[3]["answer"] + "<|end|>"
    assert not list((tmp_path / "out").glob("*.bin")), "a pickle was left behind"


@pytest.mark.parametrize("flag", ["--use-lora", "--use-qlora"])
def test_an_adapter_loads_with_peft_and_names_its_base(flag: str, tiny_checkpoint: Path, data: Path, tmp_path: Path):
    run(tiny_checkpoint, data, tmp_path / "out", flag, "--lora-r", "4", *SHORT)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_checkpoint) and config["r"] == 4
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    changed = [value.abs().sum() > 0 for name, value in model.named_parameters() if "lora_B" in name]
    assert changed and all(changed)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_mode & 0o044, "others may read it"


def test_qlora_loads_the_base_in_nf4(tiny_checkpoint: Path):
    from bitsandbytes.nn import Linear4bit

    from dimba.objectives.sft import SFT
    from dimba.trainers.models.loading import Compute, load_model

    options = SFT.parse(
        ["--base-checkpoint", str(tiny_checkpoint), "--dataset", "x", "--output-dir", "y", "--use-qlora"]
    )
    model = load_model(options, Compute(on_cpu=True, mixed="no"))
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14 and all(layer.weight.quant_type == "nf4" for layer in layers)


def test_rows_longer_than_max_length_are_cut_and_counted(tiny_checkpoint: Path, tmp_path: Path):
    rows = [*QUESTIONS, {"question": "Q", "answer": "long " * 300}, {"question": "long " * 300, "answer": "A"}]
    data = write_rows(tmp_path / "data.jsonl", rows)
    output = run(tiny_checkpoint, data, tmp_path / "out", "--on-long", "truncate", *SHORT)
    assert "2 rows are longer than max_length 256: cut" in output and "1 has nothing trained left" in output


def test_real_data_train(tiny_checkpoint: Path, tmp_path: Path):
    data = SHARED_DATA / "alpaca-en-demo.json"
    if not data.exists():
        pytest.skip(f"no {data.name} here")
    flags = ("--use-lora", *SHORT, "--max-steps", "2", "--max-length", "2900")
    assert "step 2/2" in run(tiny_checkpoint, data, tmp_path / "out", *flags)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "nowhere/at/all"}, "--base-checkpoint: "),
        ({"base": "./nowhere"}, "does not exist"),
        ({"data": "./nowhere.jsonl"}, "nowhere.jsonl"),
        ({"flags": ("--columns", "prompt")}, "is not OURS=YOURS"),
        ({"flags": ("--validation-split", "12")}, "holds out every row"),
        ({"flags": ("--validation-split", "test")}, "a file has no split `test`"),
        ({"flags": ("--max-length", "8")}, "no row has a trained token within 8 tokens"),
    ],
)
def test_bad_input_is_status_2_with_a_hint(
    change: dict, message: str, tiny_checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from dimba.objectives.sft import SFT
    from dimba.trainers.command import run_trainer
    from dimba.trainers.objectives.sft.train import train

    base, rows = change.get("base", tiny_checkpoint), change.get("data", data)
    argv = command(base, rows, tmp_path / "made" / "out", *change.get("flags", ()))[2:]
    assert run_trainer(train, SFT.parse(argv)) == 2
    printed = capsys.readouterr().err
    assert message in printed and "hint: " in printed
    assert not (tmp_path / "made").exists(), "a refusal leaves nothing behind"


def test_a_refusal_removes_only_the_folders_that_it_made(tmp_path: Path):
    from dimba.objectives.sft import SFT
    from dimba.trainers.models.saving import output_folder

    argv = command(Path("base"), Path("rows"), tmp_path / "there" / "made" / "out")[2:]
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyError), output_folder(SFT.parse(argv)):
        raise KeyError
    assert not list((tmp_path / "there").iterdir())


def test_another_runs_model_is_not_overwritten(tiny_checkpoint: Path, data: Path, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    assert "already holds a model" in run(tiny_checkpoint, data, tmp_path, status=2)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_packing_changes_nothing_but_the_speed_and_rows_are_held_out(tiny_checkpoint: Path, tmp_path: Path):
    rows = [{"question": row["question"], "answer": row["answer"] * (n % 5 + 1)} for n, row in enumerate(QUESTIONS * 3)]
    data = write_rows(tmp_path / "data.jsonl", rows)
    flags = ("--validation-split", "6", "--eval-steps", "2", *SHORT)
    losses = {}
    for packing in ("auto", "off"):
        output = run(tiny_checkpoint, data, tmp_path / packing, "--packing", packing, *flags)
        assert "30 examples to train on, 6 held out" in output and "validation loss" in output
        lines = metrics(tmp_path / packing)
        losses[packing] = [line["loss"] for line in lines if "loss" in line]
        losses[f"{packing} held out"] = [line["eval_loss"] for line in lines if "eval_loss" in line]
        losses[f"{packing} tokens"] = [line["num_tokens"] for line in lines if "loss" in line]
    assert losses["auto"] == pytest.approx(losses["off"], abs=1e-4) and len(losses["auto"]) == 4
    assert losses["auto held out"] == pytest.approx(losses["off held out"], abs=1e-4)
    assert len(losses["auto held out"]) == 2
    assert losses["auto tokens"] == losses["off tokens"], "padding is not counted"


def test_the_loss_is_on_the_answers_of_the_chats_only(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from transformers import AutoTokenizer

    from dimba.objectives.sft import SFT
    from dimba.trainers.objectives.sft.causal_trainer import CausalTrainer
    from dimba.trainers.objectives.sft.train import train

    batches: list[dict] = []
    compute = CausalTrainer.compute_loss

    def recorded(self, model, inputs, *args, **options):
        batches.append({name: value.clone() for name, value in inputs.items() if hasattr(value, "clone")})
        return compute(self, model, inputs, *args, **options)

    monkeypatch.setattr(CausalTrainer, "compute_loss", recorded)
    chats = [
        {"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": f"A{n}", "weight": n % 2}]}
        for n in range(8)
    ]
    chats.append({"messages": [{"role": "user", "content": "Q8"}, {"role": "assistant", "content": "A8"}] * 2})
    data = write_rows(tmp_path / "data.jsonl", chats)
    flags = ["--num-epochs", "1", "--batch-size", "3", "--grad-accumulation-steps", "1", "--device", "cpu"]
    named = ["--base-checkpoint", str(tiny_checkpoint), "--dataset", str(data), "--output-dir", str(tmp_path / "out")]
    train(SFT.parse([*named, *flags, "--skip-bad-rows"]))
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    trained = [tokenizer.decode(row[row != -100]) for batch in batches for row in batch["labels"]]
    assert sorted("".join(trained).split("<|end|>")) == ["", "A1", "A3", "A5", "A7", "A8", "A8"]
    documents = "".join(tokenizer.decode(row) for batch in batches for row in batch["input_ids"])
    assert documents.count("<|begin|>") == 5, "one each, and rows without loss are left out"
    assert all((batch["position_ids"] == 0).sum() >= 2 for batch in batches), "each starts again at 0"


@pytest.mark.proof
def test_two_processes_share_the_tokens_that_were_made_before_they_started(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
):
    flags = ["--max-steps", "2", "--batch-size", "2", "--grad-accumulation-steps", "1", "--device", "cpu"]
    script = command(tiny_checkpoint, data, tmp_path / "out", *flags)[1:]
    launcher = "accelerate launch --quiet --num_machines 1 --num_processes 2 --multi_gpu --main_process_port 0".split()
    precision = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dimba.supervisor.entry",
            "--prepare",
            *launcher,
            *precision,
            "-m",
            "dimba.supervisor.rank",
            *script,
        ],
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "HF_HOME": str(tmp_path / "hf"),
            "PYTHONPATH": str(REPOSITORY),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (each for each in (tmp_path / "hf/dimba/tokens").iterdir() if each.is_dir())
    assert made.stat().st_mtime < (tmp_path / "out" / "metrics.jsonl").stat().st_mtime
    assert "12 rows" in done.stdout and "step 2/2" in done.stdout
    alone = run(tiny_checkpoint, data, tmp_path / "alone", *flags)
    assert "step 2/2" in alone
    both, one = (metrics(tmp_path / name)[-1]["num_tokens"] for name in ("out", "alone"))
    assert both > 1.5 * one, "each process has its own rows"


@pytest.mark.proof
def test_sigterm_saves_a_checkpoint_from_which_training_resumes(tiny_checkpoint: Path, data: Path, tmp_path: Path):
    flags = ("--batch-size", "2", "--grad-accumulation-steps", "1", "--num-epochs", "500")
    process = subprocess.Popen(
        command(tiny_checkpoint, data, tmp_path / "out", *flags), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            process.send_signal(signal.SIGTERM)
            break
    process.stdout.read()
    assert process.wait(60) == 143
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    more = ("--max-steps", str(step + 2), "--resume-from-checkpoint", str(checkpoint))
    assert f"step {step + 2}/{step + 2}" in run(tiny_checkpoint, data, tmp_path / "out", *flags, *more)


@pytest.mark.proof
def test_the_process_runner_trains_the_same_job_without_an_engine(tiny_job: Path, dimba: Dimba):
    done = dimba("launch", "job.yaml", cwd=tiny_job, **NO_ENGINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no container engine" in done.stderr and "step 3/3" in done.stdout
    assert "Warning: " not in done.stdout + done.stderr, "a library's warning is no line of a log"
    (run,) = json.loads(dimba("ps", "-a", "--json", cwd=tiny_job).stdout)
    folder = tiny_job / "runs" / run["id"]
    assert len((folder / "attempts" / "1" / "metrics.jsonl").read_text().splitlines()) == 3
    assert (tiny_job / "out" / "adapter_model.safetensors").exists()
    again = dimba("launch", "job.yaml", cwd=tiny_job, **NO_ENGINE)
    assert again.returncode == 2 and f"already holds a model of run `{run['id']}`" in again.stderr
