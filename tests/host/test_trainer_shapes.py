"""Custom trainers: the flags that their help defines are found, whichever library writes it, and no others."""

import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimba.host.facts import EngineFacts, ImageFacts, TrainerFacts
from dimba.host.help_flags import flags_in_help
from dimba.host.probe import probe
from dimba.runners import flags
from dimba.runners.process import ProcessRunner
from dimba.runners.protocol import Output
from dimba.spec import load_spec
from tests.conftest import Dimba

ARGPARSE = """
    import argparse
    parser = argparse.ArgumentParser(
        description="Trains.\\n\\nUsage:\\n  train.py --dataset mine \\\\\\n    --lora-r 3\\n",
        epilog="Recommended:\\n  train.py --qlora\\n    --dropout 3\\n",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", required=True, help="the base; see also " * 9 + "--checkpoint")
    parser.add_argument("--ids", nargs="+", metavar="n", help="several")
    parser.add_argument("--maybe", nargs="?")
    parser.add_argument("--mode", choices=("sft", "grpo"))
    parser.add_argument("--lora", action=argparse.BooleanOptionalAction)
    data = parser.add_argument_group("data", "what to read, for which there is also --data-path, and then")
    data.add_argument("-f", "--train-file", metavar="file")
    data.add_argument("--a-flag-that-is-too-long-for-its-help", metavar="BATCH SIZE", help="next line")
    parser.parse_args()
"""
CLICK = """
    import click
    @click.command(epilog="Example: train.py --split")
    @click.option("--base-model", required=True, help="The base, not --checkpoint.")
    @click.option("-m", "--mode", type=click.Choice(["sft", "grpo"]), default="sft", show_default=True)
    @click.option("--lora / --no-lora", default=False, help="An adapter.")
    @click.option("--train-file", type=click.Path(), required=True)
    @click.option("--batch-size", type=click.IntRange(1), help="rows " * 40 + "--rank")
    def main(**options):
        \"\"\"Trains.

        \\b
        Examples:
          train.py
            --dataset y
        \"\"\"
    main()
"""
TYPER = """
    import typer
    def main(
        base_model: str = typer.Option(..., help="The base, see --checkpoint " * 12),
        train_file: str = typer.Option(...),
        mode: str = typer.Option("sft", "--mode", "-m"),
        lora: bool = False,
        batch_size: int = typer.Option(2, "--batch-size", "--bs", min=1, rich_help_panel="Further"),
    ):
        "Trains. There is no --dataset."
    typer.run(main)
"""
HF = """\
usage: train.py [-h] --base_model BASE_MODEL [--learning_rate LEARNING_RATE] [--use_lora [USE_LORA]]
                [--seed SEED] --output_dir OUTPUT_DIR

options:
  -h, --help            show this help message and exit
  --base_model BASE_MODEL, --base-model BASE_MODEL
                        The base (default: None)
  --learning_rate LEARNING_RATE, --learning-rate LEARNING_RATE, --lr LEARNING_RATE
                        rate (default: 0.0001)
  --use_lora [USE_LORA], --use-lora [USE_LORA]
  --no_group_by_length, --no-group-by-length
  --tags TAGS [TAGS ...]
                        x (default: [])
"""
FIRE = """\
NAME
    train.py

SYNOPSIS
    train.py <flags>
      --dataset=D

FLAGS
    -b, --base_model=BASE_MODEL
        Type: Optional[str]
        Default: None
    --lr=LR
        Default: 0.1
"""
ABSL = """\
Trains, with --dataset.
flags:

train.py:
  --base_model: The base model; the other is
    --checkpoint
    (default: 'x')
  --[no]lora: Use LoRA.
    (default: 'false')
  -b,--batch_size: rows
    (an integer)
  --mode: <sft|grpo>: which mode

Try --helpfull to get a list of all flags.
"""
DOCOPT = """\
Trains a model.

Usage:
  train.py --dataset=<d> [--lora]
  train.py (-h | --help)
    --split S

Options:
  -h --help         Show this.
  -o DIR --output-dir=DIR  Where to.
  --speed=<kn>      Speed [default: 10].
     --author       Alone.
"""
DOCOPT_WITHOUT_HEADING = """\
Usage: train.py [-hq] [--quiet]

-h --help    show this
--quiet      print less
"""
BY_HAND = "Usage: train.py [options]\n\n\t--base-model PATH\tthe base\n\t--lora\n\nExamples:\n\t--dataset X\n"
DEEP = f"options:\n{' ' * 30}--base-model B    the base\n{' ' * 30}--lora\n{' ' * 34}see --rank\n"
COLOURED = "options:\n  \x1b[1m--base-model\x1b[0m B  the base\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HF, "help base_model base-model learning_rate learning-rate lr use_lora use-lora no_group_by_length "
             "no-group-by-length tags"),
        (FIRE, "base_model lr"),
        (ABSL, "base_model lora nolora batch_size mode"),
        (DOCOPT, "help output-dir speed author"),
        (DOCOPT_WITHOUT_HEADING, "help quiet"),
        (BY_HAND, "base-model lora"),
        (DEEP, "base-model lora"),
        (COLOURED, "base-model"),
        ("usage: train.py [-h]\n                --base-model B\n", ""),
    ],
    ids="hf fire absl docopt docopt-bare by-hand deep coloured usage-alone".split(),
)  # fmt: skip
def test_flags_are_found_in_the_help_of_each_library(text: str, expected: str):
    assert flags_in_help(text) == {f"--{name}" for name in expected.split()}


def script(folder: Path, source: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return path


@pytest.mark.parametrize("columns", ["64", "80", "200"])
@pytest.mark.parametrize(
    ("source", "needs", "expected"),
    [
        (
            ARGPARSE,
            "argparse",
            "base-model ids maybe mode lora no-lora train-file a-flag-that-is-too-long-for-its-help",
        ),
        (CLICK, "click", "base-model mode lora no-lora train-file batch-size"),
        (TYPER, "typer", "base-model train-file mode lora no-lora batch-size bs"),
    ],
    ids=["argparse", "click", "typer"],
)
def test_flags_are_found_in_help_that_the_library_prints_at_each_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, needs: str, expected: str, columns: str
):
    pytest.importorskip(needs)
    monkeypatch.setenv("COLUMNS", columns)
    command = [sys.executable, script(tmp_path, source), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = flags_in_help(done.stdout) - {"--install-completion", "--show-completion"}
    assert found == {"--help", *(f"--{name}" for name in expected.split())}


def arguments(*names: str, before: str = "") -> str:
    """The source of an argparse trainer with these flags; those that end in `!` take no value."""
    adds = [
        f"p.add_argument({name.rstrip('!')!r}" + (", action='store_true')" if name.endswith("!") else ")")
        for name in names
    ]
    return "\n".join([before, "import argparse", "p = argparse.ArgumentParser()", *adds, "p.parse_args()", ""])


def planned(dimba: Dimba, job: Path, trainer: str = "mine.py") -> dict[str, Any]:
    done = plan(dimba, job, f"trainer={trainer}")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    made["flags"] = made["argv"][made["argv"].index("dimba.supervisor.rank") + 2 :]
    return made


def plan(dimba: Dimba, job: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    sets = [word for setting in settings for word in ("--set", setting)]
    return dimba("plan", "job.yaml", "--json", "--runner", "process", "--trust-spec", *sets, cwd=job)


UNDERSCORED = arguments(
    "--base_model", "--train_file", "--use_lora!", "--per_device_train_batch_size", "--gradient_accumulation_steps",
    "--num_train_epochs", "--max_steps", "--learning_rate", "--max_seq_length", "--seed", "--output_dir", "--lora_r",
    "--lora_alpha",
)  # fmt: skip


def test_underscored_flags_receive_every_value(job: Path, dimba: Dimba):
    script(job, UNDERSCORED)
    made = planned(dimba, job)
    assert made["flags_from"] == "--help" and made["omitted"] == []
    assert made["flags"] == [
        "--base_model", str(job / "base"), "--train_file", str(job / "data.jsonl"), "--use_lora", "--lora_r", "8",
        "--lora_alpha", "16", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2",
        "--num_train_epochs", "3", "--max_steps", "3", "--learning_rate", "0.0002", "--max_seq_length", "128",
        "--seed", "42", "--output_dir", str(job / "out"),
    ]  # fmt: skip


def test_a_flag_that_dimba_sets_is_refused_in_trainer_args_with_underscores_too(job: Path, dimba: Dimba):
    script(job, UNDERSCORED)
    done = plan(dimba, job, "trainer=mine.py", "trainer_args={learning_rate: 1}")
    assert done.returncode == 2
    assert "dimba sets `--learning_rate` itself" in done.stderr and "`training.learning_rate`" in done.stderr


def test_the_mode_flag_and_the_full_flag_are_passed(job: Path, dimba: Dimba):
    script(job, arguments("--mode", "--full-ft!", "--model", "--dataset"))
    done = plan(dimba, job, "trainer=mine.py", "method=full")
    argv = json.loads(done.stdout)["argv"]
    assert argv[-7:] == [
        "--mode",
        "sft",
        "--model",
        str(job / "base"),
        "--dataset",
        str(job / "data.jsonl"),
        "--full-ft",
    ]


@pytest.mark.parametrize(("source", "needs"), [(CLICK, "click"), (TYPER, "typer")], ids=["click", "typer"])
def test_click_and_typer_trainers_receive_the_flags_of_their_help(job: Path, dimba: Dimba, source: str, needs: str):
    pytest.importorskip(needs)
    script(job, source)
    made = planned(dimba, job)
    assert made["flags_from"] == "--help"
    data = str(job / "data.jsonl")
    assert made["flags"] == [
        "--mode", "sft", "--base-model", str(job / "base"), "--train-file", data, "--lora", "--batch-size", "2"
    ]  # fmt: skip


@pytest.mark.parametrize("flag", ["--dataset-path", "--train_file", "--dataset", "--hf_dataset"])
def test_a_local_file_is_passed_by_the_data_flag_that_the_trainer_has(job: Path, dimba: Dimba, flag: str):
    script(job, arguments("--model", "--lora!", flag))
    assert planned(dimba, job)["flags"][2:4] == [flag, str(job / "data.jsonl")]


def test_a_local_file_is_passed_by_the_flag_for_files_if_there_are_two(job: Path, dimba: Dimba):
    script(job, arguments("--model", "--lora!", "--hf_dataset", "--data_path"))
    assert planned(dimba, job)["flags"][2] == "--data_path"


def test_a_trainer_without_a_data_flag_is_refused(job: Path, dimba: Dimba):
    script(job, arguments("--model", "--lora!"))
    done = plan(dimba, job, "trainer=mine.py")
    assert done.returncode == 2
    assert "dataset.path: the trainer has no flag for it (looked in its --help for --dataset-path" in done.stderr


def test_a_crashing_help_falls_back_to_the_source_and_reports_why(job: Path, dimba: Dimba):
    script(job, arguments("--model", "--dataset", "--lora!", before="import a_library_for_gpus"))
    made = planned(dimba, job)
    assert made["flags_from"] == (
        "source, as its --help ended with status 1: ModuleNotFoundError: No module named 'a_library_for_gpus'"
    )
    assert made["flags"][:3] == ["--model", str(job / "base"), "--dataset"]


def test_a_help_without_flags_falls_back_to_the_source(job: Path, dimba: Dimba):
    script(job, "print('no help here')\ndef option(*_): 0\noption('--model', '--dataset', '--lora')\n")
    assert planned(dimba, job)["flags_from"] == "source, as its --help names no flags"


def test_a_help_that_exits_with_status_1_still_counts(job: Path, dimba: Dimba):
    script(job, "import sys\nprint('flags:\\n  --model: m\\n  --[no]lora: l\\n  --dataset: d')\nsys.exit(1)\n")
    made = planned(dimba, job)
    assert made["flags_from"] == "--help" and made["flags"][-1] == "--lora"


def asked(job: Path, monkeypatch: pytest.MonkeyPatch, run_once: Any, image: ImageFacts | None = None) -> TrainerFacts:
    monkeypatch.chdir(job)
    loaded = load_spec(job / "job.yaml")
    facts = probe(loaded.spec, EngineFacts(reachable=False), folder=job)
    facts = replace(facts, trainer=TrainerFacts(path=job / "mine.py"))
    return flags.trainer_facts(facts, image, run_once, ask=True)


def test_a_help_that_times_out_is_run_only_once(job: Path, monkeypatch: pytest.MonkeyPatch):
    script(job, arguments("--model", "--dataset", before="import time; time.sleep(30)"))
    monkeypatch.setattr(flags, "HELP_SECONDS", 1)
    start = time.monotonic()
    first, second = (asked(job, monkeypatch, ProcessRunner().run_once) for _ in range(2))
    assert time.monotonic() - start < 10
    assert first == second and first.flags == {"--model", "--dataset"}
    assert first.flags_from == "source, as its --help took longer than 1 s"


def test_the_help_is_run_once_for_each_content_and_image(job: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(job / "cache"))
    calls: list[str] = []

    def run_once(argv: Any, place: Any) -> Output:
        calls.append(place.image)
        return Output(1, "no")

    image = ImageFacts(reference="r", key=None, base=None, base_digest=None, id="sha256:1")
    script(job, arguments("--model"))
    for place in (None, None, image, image, replace(image, id="sha256:2")):
        assert asked(job, monkeypatch, run_once, place).flags == {"--model"}
    script(job, arguments("--other"))
    assert asked(job, monkeypatch, run_once).flags == {"--other"}
    assert calls == ["", "sha256:1", "sha256:2", ""]


def test_the_other_modes_trainer_is_planned_with_a_note(job: Path, dimba: Dimba):
    other = "scripts/finetuning/finetune_grpo.py"
    script(job, arguments("--mode", "--model", "--dataset", "--lora!"), other)
    made = planned(dimba, job, other)
    assert made["flags"][:2] == ["--mode", "sft"]
    note = "is the trainer of another mode; check what its `--mode sft` does"
    assert any(each.endswith(note) for each in made["notes"])


def test_the_other_modes_trainer_is_refused_without_a_mode_flag(job: Path, dimba: Dimba):
    other = "scripts/finetuning/finetune_grpo.py"
    script(job, arguments("--model", "--dataset", "--lora!"), other)
    done = plan(dimba, job, f"trainer={other}")
    assert done.returncode == 2
    assert "is for another mode, and has no --mode flag" in done.stderr
