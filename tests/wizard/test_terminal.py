import json
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dimba.spec import load_spec
from tests.conftest import QUESTIONS, REPOSITORY, hollow_checkpoint, write_rows
from tests.hub import hub
from tests.plan.test_memory import CONFIG, large_checkpoint
from tests.wizard.conftest import EIGHT_80, ONE_8, TWO_24
from tests.wizard.terminal import CTRL_C, CTRL_U, DOWN, ENTER, ESC, TAB, UP, Terminal, environment

Open = Callable[..., Terminal]


@pytest.fixture
def wizard(place: Path) -> Iterator[Open]:
    """Opens the wizard in a terminal of 80 × 24."""
    opened: list[Terminal] = []

    def run(*flags: str, **more: str) -> Terminal:
        argv = [sys.executable, "-m", "dimba", "wizard", *flags]
        terminal = Terminal(argv, place, environment(PYTHONPATH=str(REPOSITORY), **more))
        opened.append(terminal)
        return terminal

    yield run
    for terminal in opened:
        terminal.child.close(force=True)


def to_data(terminal: Terminal) -> None:
    terminal.wait("learn from example answers")
    terminal.send(ENTER)
    terminal.wait("complete: LlamaForCausalLM")
    terminal.send(ENTER)
    terminal.wait("6  local file")


def to_budget(terminal: Terminal) -> None:
    to_data(terminal)
    terminal.send(UP, ENTER)
    terminal.wait("File:")
    terminal.send("qa.jsonl", ENTER)
    terminal.wait("VRAM budget per GPU")


def to_the_end(terminal: Terminal) -> None:
    for expected in ("Trainer", "Output folder:", "Name of the job:", "Save the spec as:", "Ready"):
        terminal.send(ENTER)
        terminal.wait(expected)


def saved(terminal: Terminal) -> Path:
    """Save without launching; returns the file."""
    terminal.send(UP, UP, ENTER)
    terminal.wait("saved; edit it or run it with")
    assert terminal.end() == 0
    return Path(terminal.shown().split("`dimba launch ")[1].split("`")[0])


def test_six_steps_of_accepted_defaults_make_a_spec(wizard: Open, place: Path):
    terminal = wizard(GPUS=ONE_8)
    to_budget(terminal)
    assert "question/answer: 12 rows, all read" in terminal.shown()
    assert "user> What is 0 + 0?" in terminal.shown()
    assert "1 × RTX 4060, 8 GB (GPU 0)" in terminal.shown()
    terminal.send(ENTER)
    terminal.wait("Method")
    assert "❯ Q-LoRA" in terminal.shown()
    assert "recommended, under 12 GB" in terminal.shown()
    terminal.send(ENTER)
    terminal.wait("take these values")
    assert "64 rows per step (4 × 16)" in terminal.shown()
    terminal.send(ENTER)
    terminal.wait("Where it runs")
    to_the_end(terminal)
    assert "--use-qlora" in terminal.all()
    spec = load_spec(place / saved(terminal)).spec
    assert (spec.method, spec.training.batch_size, spec.resources.vram_gb) == ("qlora", 4, 8)
    for line in terminal.all().splitlines():
        assert len(line) <= 80


@pytest.mark.proof
def test_going_back_keeps_typed_answers_and_updates_defaults(wizard: Open, place: Path):
    terminal = wizard("--dataset", "qa.jsonl", GPUS=TWO_24)
    terminal.wait("learn from")
    terminal.send(ENTER)
    terminal.wait("complete:")
    terminal.send(ENTER)
    terminal.wait("VRAM budget")
    terminal.send(ENTER)
    terminal.wait("Which GPUs")
    terminal.send(ENTER)
    terminal.wait("recommended, 12 to 40 GB")
    terminal.send(ENTER)
    terminal.wait("take these values")
    terminal.send(UP, ENTER)
    terminal.wait("Batch size: 8")
    terminal.send(CTRL_U, "3", ENTER)
    terminal.wait("Gradient accumulation: 8")
    terminal.send(ESC)
    terminal.wait("Batch size: 3")
    terminal.send(ESC, ESC)
    terminal.wait("❯ LoRA")
    terminal.send(DOWN, ENTER)
    terminal.wait("learning rate 2e-5")  # accepted before, not typed: it follows the method
    assert "batch size 3" in terminal.shown()


@pytest.mark.proof
def test_leaving_writes_nothing_and_keeps_a_draft(wizard: Open, place: Path):
    terminal = wizard(GPUS=ONE_8)
    to_budget(terminal)
    terminal.send(DOWN, DOWN, DOWN, ENTER)
    terminal.wait("Method")
    terminal.send(CTRL_C)
    terminal.wait("`dimba wizard` continues where you left off")
    assert terminal.end() == 130
    assert not (place / "jobs").exists()
    again = wizard(GPUS=ONE_8)
    again.wait("continue the draft")
    again.send(ENTER)
    again.wait("recommended, from 40 GB")
    again.send(ESC)
    again.wait("❯ 40+ GB")
    again.send(ENTER, ENTER)
    again.wait("take these values")
    again.send(ENTER)
    again.wait("Where it runs")
    to_the_end(again)
    spec = load_spec(place / saved(again)).spec
    assert (spec.dataset.path, spec.resources.vram_gb) == ("qa.jsonl", 40)
    third = wizard(GPUS=ONE_8)
    third.wait("learn from")
    assert "draft of" not in third.all(), "saving deletes the draft"


def test_a_killed_wizard_leaves_its_draft_too(wizard: Open):
    terminal = wizard(GPUS=ONE_8)
    to_budget(terminal)
    terminal.child.kill(9)
    again = wizard(GPUS=ONE_8)
    again.wait("continue the draft")
    again.send(DOWN, ENTER)
    again.wait("learn from")


@pytest.mark.proof
def test_a_draft_keeps_the_answers_of_flags(wizard: Open):
    flags = ["--mode", "sft", "--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl"]
    terminal = wizard(*flags, GPUS=ONE_8)
    terminal.wait("VRAM budget per GPU")
    assert "question/answer: 12 rows, all read" in terminal.shown(), "a flag's answer is followed by its facts too"
    terminal.send(ENTER)
    terminal.wait("❯ Q-LoRA")
    terminal.send(CTRL_C)
    terminal.end()
    for again in (wizard(GPUS=ONE_8), wizard(*flags, GPUS=ONE_8)):
        again.wait("continue the draft")
        again.send(ENTER)
        again.wait("❯ Q-LoRA")
        again.send(CTRL_C)
        again.end()


def test_an_invalid_answer_in_a_draft_is_asked_again(wizard: Open, place: Path):
    from dimba.wizard.draft import draft_file

    terminal = wizard()
    to_data(terminal)
    terminal.send(CTRL_C)
    terminal.end()
    (file,) = (place.parent / "state/dimba/drafts").iterdir()
    assert file.name == draft_file(place).name
    draft = json.loads(file.read_text())
    draft["answers"]["mode"] = "kto"
    file.write_text(json.dumps(draft))
    again = wizard()
    again.wait("continue the draft")
    again.send(ENTER)
    again.wait("learn from example answers")


def test_a_draft_without_its_data_file_asks_for_it_again(wizard: Open, place: Path):
    terminal = wizard(GPUS=ONE_8)
    to_budget(terminal)
    terminal.send(CTRL_C)
    terminal.end()
    (place / "qa.jsonl").unlink()
    again = wizard(GPUS=ONE_8)
    again.wait("continue the draft")
    again.send(ENTER)
    again.wait("File: qa.jsonl")
    again.send(ENTER)
    again.wait("does not exist")


def test_a_file_deleted_between_two_answers_is_reported_without_a_traceback(wizard: Open, place: Path):
    terminal = wizard(GPUS=ONE_8)
    to_budget(terminal)
    (place / "qa.jsonl").unlink()
    terminal.send(ENTER)
    terminal.wait("❯ Q-LoRA")
    terminal.send(ENTER)
    terminal.wait("does not exist")
    terminal.wait("❯ Q-LoRA")
    assert "Traceback" not in terminal.all()


def test_an_invalid_answer_is_explained_and_asked_again(wizard: Open, place: Path):
    with (place / "bad.jsonl").open("w") as file:
        file.write('{"question": "a", "answer": "b"}\n{"question": "a", "answer": 5}\n')
    terminal = wizard()
    to_data(terminal)
    terminal.send(UP, ENTER)
    terminal.wait("File:")
    terminal.send("bad.jsonl", ENTER)
    terminal.wait("hint: correct the row or remove it")
    assert "ad.jsonl:2:" in terminal.shown().replace("\n", "")
    assert "`answer` is a number, expected text" in terminal.shown()
    assert "File: bad.jsonl" in terminal.shown(), "the typed text is there to be corrected"
    terminal.send(CTRL_U, "nope.jsonl", ENTER)
    terminal.wait("does not exist")


@pytest.mark.parametrize(
    ("file", "note"),
    [("book.txt", "plain text; the loss is on all of it"), ("loss.jsonl", "on 1 of 2 turns of the assistant")],
)
def test_the_first_example_states_which_part_carries_loss(wizard: Open, place: Path, file: str, note: str):
    (place / "book.txt").write_text("Once\n\nupon a time\n")
    replies = [{"role": "assistant", "content": "A", "weight": 0}, {"role": "assistant", "content": "B"}]
    write_rows(place / "loss.jsonl", [{"messages": [{"role": "user", "content": "Q"}, *replies]}])
    terminal = wizard()
    to_data(terminal)
    terminal.send(UP, ENTER)
    terminal.wait("File:")
    terminal.send(file, ENTER)
    terminal.wait(note)


def test_the_first_example_of_grpo_is_a_prompt(wizard: Open, place: Path):
    chat = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    write_rows(place / "chats.jsonl", [{"messages": chat}] * 30)
    terminal = wizard("--mode", "grpo")
    terminal.wait("complete: LlamaForCausalLM")
    terminal.send(ENTER)
    terminal.wait("6  local file")
    terminal.send(DOWN, DOWN, ENTER)
    terminal.wait("File:")
    terminal.send("chats.jsonl", ENTER)
    terminal.wait("only the prompt, as answers are sampled")


def test_a_folder_of_checkpoints_suggests_its_newest_complete_one(wizard: Open, place: Path):
    for step in (10, 20):
        hollow_checkpoint(place / f"old/checkpoint-{step}")
    (place / "old/checkpoint-20/model.safetensors").write_bytes(b"half")
    terminal = wizard()
    terminal.wait("learn from")
    terminal.send(ENTER)
    terminal.wait("complete:")
    terminal.send(CTRL_U, "ol", TAB)
    terminal.wait("old")
    terminal.wait("folder of checkpoints (2)")
    terminal.send(ENTER)
    terminal.wait("Base checkpoint: old/checkpoint-10")
    terminal.send(ENTER)
    terminal.wait("Data set")


@pytest.mark.proof
def test_columns_are_asked_if_no_format_fits(wizard: Open, place: Path):
    write_rows(place / "odd.jsonl", [{"id": 1, "ask": row["question"], "reply": row["answer"]} for row in QUESTIONS])
    write_rows(place / "odder.jsonl", [{"n": 1, "input": row["question"], "note": row["answer"]} for row in QUESTIONS])
    terminal = wizard("--mode", "sft", "--base-checkpoint", "checkpoints/base")
    terminal.wait("6  local file")
    terminal.send(UP, ENTER)
    terminal.wait("File:")
    terminal.send("odd.jsonl", ENTER)
    terminal.wait("Which one holds the prompt?")
    terminal.send(DOWN, ENTER)
    terminal.wait("Which one holds the response?")
    terminal.send(ENTER)  # the number
    terminal.wait("`id` is a number, expected text")
    terminal.send(DOWN, ENTER)
    terminal.wait("prompt/response: 12 rows")
    terminal.wait("VRAM budget per GPU")
    terminal.send(ESC, ESC, ESC)
    terminal.wait("File: odd.jsonl")
    terminal.send(CTRL_U, "odder.jsonl", ENTER)
    terminal.wait("❯ input")
    terminal.send(ENTER)
    terminal.wait("Which one holds the response?")
    terminal.send(DOWN, ENTER)
    terminal.wait("VRAM budget per GPU")


def test_some_of_eight_gpus_can_be_chosen(wizard: Open, place: Path):
    terminal = wizard("--mode", "sft", "--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl", GPUS=EIGHT_80)
    terminal.wait("8 × H100, 80 GB")
    terminal.wait("draft is kept")
    assert "❯ 40+ GB  the largest GPU here: 80 GB" in terminal.shown()
    terminal.send(ENTER)
    terminal.wait("[x] 7  H100, 80 GB")
    terminal.send(" ", DOWN, DOWN, " ", ENTER)
    terminal.wait("Which GPUs 6 of 8")
    terminal.wait("❯ full")
    terminal.send(ENTER)
    terminal.wait("48 rows per step (8 × 6, shared by 6 GPUs)")
    terminal.send(ENTER)
    terminal.wait("Where it runs")
    to_the_end(terminal)
    assert load_spec(place / saved(terminal)).spec.resources.gpus == [1, 3, 4, 5, 6, 7]


def test_a_custom_trainer_is_probed_for_its_flags(wizard: Open, place: Path):
    own = place / "mine.py"
    own.write_text("import argparse\np = argparse.ArgumentParser()\np.add_argument('--model')\np.parse_args()\n")
    flags = ["--mode", "sft", "--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl", "--vram", "24"]
    terminal = wizard(*flags, "--method", "full", "--runner", "process")
    terminal.wait("take these values")
    terminal.send(ENTER)
    terminal.wait("another script, by its path")
    terminal.send(UP, ENTER)
    terminal.wait("Its path:")
    terminal.send("mine.py", ENTER)
    terminal.wait("the trainer has no flag for it")
    own.write_text(own.read_text().replace("'--model'", "'--model'); p.add_argument('--train-file'"))
    terminal.send(ENTER)
    terminal.wait("3 flags found in its --help")
    for expected in ("Output folder:", "Name of the job:", "Save the spec as:", "Ready"):
        terminal.wait(expected)
        terminal.send(*([ENTER] if expected != "Ready" else []))
    assert "Omitted, as the trainer has no flag for it" in terminal.all()
    assert "--train-file" in terminal.all()


def test_no_color_is_obeyed(wizard: Open):
    terminal = wizard(NO_COLOR="1")
    to_data(terminal)
    colours = [part for part in terminal.raw.split(b"\x1b[")[1:] if part.split(b"m")[0].replace(b";", b"").isdigit()]
    codes = {code for part in colours for code in part.split(b"m")[0].split(b";")}
    assert not {code for code in codes if len(code) == 2 and code[:1] in (b"3", b"4", b"9")}, codes


@pytest.mark.parametrize("how", [{"TERM": "dumb"}, {"ACCESSIBLE": "1"}, {}])
def test_plain_lines_serve_a_screen_reader(wizard: Open, place: Path, how: dict[str, str]):
    terminal = wizard(*([] if how else ["--plain"]), GPUS=ONE_8, **how)
    terminal.wait("Mode, 1 to 3 [1]:")
    answers = {
        "Base checkpoint [checkpoints/base]:": "",
        "Data set, 1 to 6 [1]:": "6",
        "File:": "qa.jsonl",
        "VRAM budget per GPU, 1 to 5 [2]:": "",
        "Method, 1 to 3 [1]:": "<",
    }
    terminal.send("1\n")
    for expected, answer in answers.items():
        terminal.wait(expected)
        terminal.send(f"{answer}\n")
    terminal.wait("VRAM budget per GPU, 1 to 5 [2]:")
    for expected in ("Method", "Hyperparameters, 1 to 3", "Where it runs", "Trainer, 1", "Output folder", "Name of"):
        terminal.send("\n")
        terminal.wait(expected)
    terminal.send("\n")
    terminal.wait("Save the spec as")
    terminal.send("plain.yaml\n")
    terminal.wait("Ready, 1 to 3")
    terminal.send("2\n")
    assert terminal.end() == 0
    assert load_spec(place / "plain.yaml").spec.method == "qlora"
    assert b"\x1b[" not in terminal.raw


def test_the_script_opens_the_same_wizard(place: Path):
    script = str(REPOSITORY / "scripts/finetuning/finetune_interactive.py")
    terminal = Terminal([sys.executable, script], place, environment(PYTHONPATH=str(REPOSITORY)))
    terminal.wait("learn from example answers")
    terminal.send(CTRL_C)
    assert terminal.end() == 130


@pytest.mark.proof
def test_save_and_launch_ends_with_a_fine_tuned_model(wizard: Open, place: Path, tiny_checkpoint: Path):
    flags = ["--mode", "sft", "--base-checkpoint", str(tiny_checkpoint), "--dataset", "qa.jsonl", "--method", "lora"]
    terminal = wizard(*flags, "--vram", "none", "--max-steps", "2", "--batch-size", "2")
    terminal.wait("take these values")
    terminal.send(ENTER)
    terminal.wait("Where it runs")
    to_the_end(terminal)
    terminal.send(ENTER)
    terminal.wait("succeeded in", 180)
    assert terminal.end() == 0
    assert json.loads((place / "checkpoints/finetune_sft_lora/dimba.json").read_text())["run_id"]


def test_another_mode_changes_the_default_trainer(wizard: Open, place: Path):
    flags = ["--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl", "--vram", "8", "--method", "lora"]
    terminal = wizard(*flags, "--runner", "process")
    terminal.wait("learn from")
    terminal.send(ENTER)
    terminal.wait("take these values")
    terminal.send(ENTER)
    terminal.wait("❯ scripts/finetuning/finetune_sft.py")
    terminal.send(DOWN, ENTER)
    terminal.wait("is for another mode")
    terminal.send(ESC)
    terminal.wait("change them one by one")
    terminal.send(ESC)
    terminal.wait("❯ sft")
    terminal.send(DOWN, ENTER)
    terminal.wait("DPO")
    terminal.wait("completions per step")
    terminal.send(ENTER)
    terminal.wait("❯ scripts/finetuning/finetune_grpo.py")
    terminal.send(ENTER)
    terminal.wait("Output folder: checkpoints/finetune_grpo_lora")


def test_the_largest_batch_that_fits_is_offered_on_a_machine_with_a_gpu(wizard: Open, place: Path):
    base = large_checkpoint(place / "large", CONFIG)
    flags = ["--mode", "sft", "--base-checkpoint", str(base), "--dataset", "qa.jsonl", "--vram", "80"]
    terminal = wizard(*flags, "--method", "lora", "--gpus", "all", GPUS="A100:81920")
    terminal.wait("batch size auto: 64 here, the largest that fits")
    terminal.send(UP, UP, ENTER)
    terminal.wait("taken, batch size auto: 64 here")
    to_the_end(terminal)
    assert load_spec(place / saved(terminal)).spec.training.batch_size == "auto"


def test_groups_are_completed_as_one_answers(wizard: Open):
    flags = ["--mode", "grpo", "--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl", "--vram", "24"]
    terminal = wizard(*flags, "--method", "lora")
    terminal.wait("take these values")
    terminal.send(UP, ENTER)
    terminal.wait("Batch size: 8")
    terminal.send(CTRL_U, "3", ENTER)
    for expected in (
        "Gradient accumulation:",
        "Epochs:",
        "Max steps:",
        "Learning rate:",
        "length:",
        "rank:",
        "alpha:",
        "Reward:",
    ):
        terminal.wait(expected)
        terminal.send(ENTER)
    terminal.wait("complete groups: 2, 3, 4, 6, 12")
    assert "Completions per prompt: 6" in terminal.shown()
    terminal.send(CTRL_U, "8", ENTER)
    terminal.wait("gradient accumulation 4 → 8")


def test_a_missing_preset_suggests_a_similar_data_set(wizard: Open):
    with hub({}) as address:
        terminal = wizard(
            "--mode", "grpo", "--base-checkpoint", "checkpoints/base", HF_ENDPOINT=address, HF_HUB_OFFLINE="0"
        )
        terminal.wait("❯ 4  feedback-collection")
        terminal.send(ENTER)
        terminal.wait("prometheus-eval/Feedback-Collection")
        terminal.wait("❯ 5  custom Hub data set")
        terminal.send(ENTER)
        terminal.wait("Its id on the Hub: prometheus-eval/Feedback-Collection")


@pytest.mark.proof
def test_a_slow_nvidia_smi_shows_a_spinner(wizard: Open, place: Path):
    (place.parent / "bin/nvidia-smi").write_text("#!/bin/sh\nsleep 3\n")
    terminal = wizard("--mode", "sft", "--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl")
    terminal.wait("asking nvidia-smi …")
    terminal.wait("VRAM budget per GPU")


def test_a_signal_leaves_the_terminal_as_it_was(wizard: Open):
    terminal = wizard()
    before = termios.tcgetattr(terminal.child.fileno())
    to_data(terminal)
    terminal.child.kill(signal.SIGTERM)
    assert terminal.end() == 143
    assert before[3] & termios.ECHO


@pytest.mark.proof
def test_plain_lines_need_no_utf8_and_report_a_long_wait(wizard: Open, place: Path):
    (place / "slow.py").write_text("import time\ntime.sleep(1.5)\nimport argparse\n" + TRAINER)
    flags = ["--mode", "sft", "--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl", "--vram", "8"]
    terminal = wizard(
        *flags, "--method", "lora", "--trainer", "slow.py", "--runner", "process", "--plain", PYTHONIOENCODING="ascii"
    )
    terminal.wait("Hyperparameters, 1 to 3")
    terminal.send("1\n")
    terminal.wait("asking slow.py for its flags")
    terminal.wait("Output folder")


TRAINER = """\
p = argparse.ArgumentParser()
for name in ("--model", "--dataset", "--lora"): p.add_argument(name)
p.parse_args()
"""


def test_typing_the_beginning_of_a_menu_line_selects_it(wizard: Open):
    terminal = wizard("--mode", "sft", "--base-checkpoint", "checkpoints/base", GPUS=ONE_8)
    terminal.wait("6  local file")
    terminal.send("6")
    terminal.wait("❯ 6  local file")
    terminal.send(ENTER)
    terminal.wait("File:")
    terminal.send("qa.jsonl", ENTER)
    terminal.wait("❯ 8 GB")
    terminal.send("24")
    terminal.wait("❯ 24 GB")


def test_epochs_can_be_chosen_instead_of_max_steps(wizard: Open, place: Path):
    flags = ["--mode", "sft", "--base-checkpoint", "checkpoints/base", "--dataset", "qa.jsonl", "--vram", "8"]
    terminal = wizard(*flags, "--method", "lora", "--runner", "process")
    terminal.wait("take them, but end after 3 epochs")
    terminal.send(DOWN, ENTER)
    to_the_end_from_trainer(terminal)
    assert load_spec(place / saved(terminal)).spec.training.max_steps is None


@pytest.mark.proof
def test_leaving_during_a_long_check_keeps_the_answer(wizard: Open, place: Path):
    with (place / "long.jsonl").open("w") as file:
        row = json.dumps({"question": "a", "answer": "b" * 200}) + "\n"
        for _ in range(2000):
            file.write(row * 500)
    terminal = wizard("--mode", "sft", "--base-checkpoint", "checkpoints/base")
    terminal.wait("6  local file")
    terminal.send("6", ENTER)
    terminal.wait("File:")
    terminal.send("long.jsonl", ENTER)
    terminal.wait("reading long.jsonl")
    terminal.send(CTRL_C)
    assert terminal.end() == 130
    again = wizard()
    again.wait("continue the draft")
    again.send(ENTER)
    again.wait("File: long.jsonl")


def to_the_end_from_trainer(terminal: Terminal) -> None:
    for expected in ("another script", "Output folder:", "Name of the job:", "Save the spec as:"):
        terminal.wait(expected)
        terminal.send(ENTER)
    terminal.wait("Ready")


def test_a_hub_data_set_can_be_described_without_a_network(wizard: Open, place: Path):
    terminal = wizard("--mode", "sft", "--base-checkpoint", "checkpoints/base", "--vram", "8", "--method", "lora")
    terminal.wait("5  custom Hub data set")
    terminal.send("5", ENTER)
    terminal.wait("Its id on the Hub:")
    terminal.send("openai/gsm8k", ENTER)
    terminal.wait("Configuration:")
    terminal.send("main", ENTER)
    terminal.wait("Split: train")
    terminal.send(ENTER)
    terminal.wait("not checked: HF_HUB_OFFLINE")
    terminal.wait("take these values")
    terminal.send(ENTER)
    terminal.wait("HF_TOKEN to the job")
    terminal.wait("❯ no")
    terminal.send(ENTER)
    terminal.wait("Where it runs")
    to_the_end(terminal)
    data = load_spec(place / saved(terminal)).spec.dataset
    assert (data.name, data.config, data.split) == ("openai/gsm8k", "main", "train")
