"""A flag counts if the help defines it, not in prose nor as the prefix of another flag."""

import subprocess
import sys
from pathlib import Path

from dimba.host.help_flags import flags_in_help
from dimba.host.source_flags import flags_in_file, flags_in_source
from dimba.host.trainer import find_trainer, find_trainers

TRAINERS = Path(__file__).parents[1] / "trainer_scripts"
REPOSITORY = Path(__file__).parents[2]
OURS = REPOSITORY / "scripts" / "finetuning" / "finetune_sft.py"

HELP = """\
usage: train.py [-h] --base-model B

Trains. Older versions had
  --lora for this, and --qlora too.

options:
  -h, --help            show this help message and exit
  --base-model B, --model-path B
                        the base; see also
                        --full-ft which is gone
  -b N, --micro-batch-size N
                        rows
  --lora-r RANK         rank, not --rank
  --columns C [C ...]
  --method {full,lora}  which
  --data-path file      a file
  --no-cache / --cache  both
  --lr FLOAT            rate  [default: 1]

examples:
  --dataset mine
  train.py --split train
"""


def test_flags_are_those_that_the_help_text_defines():
    assert flags_in_help(HELP) == {
        "--help", "--base-model", "--model-path", "--micro-batch-size", "--lora-r", "--columns", "--method",
        "--data-path", "--no-cache", "--cache", "--lr",
    }  # fmt: skip


def test_source_and_help_agree_on_our_own_trainer():
    done = subprocess.run([sys.executable, OURS, "--help"], capture_output=True, text=True, check=True)
    assert flags_in_help(done.stdout) == flags_in_file(OURS) | {"--help"}


def test_help_answers_without_importing_torch():
    code = f"import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_path({str(OURS)!r}, run_name='__main__')\n"
    code += "except SystemExit: pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_flags_in_source_are_those_of_defining_calls():
    source = (
        'add = p.add_argument\nadd("--a", help="--b")\n# --c\nx = "--d"\n@click.option("--e/--no-e")\ndef f(): pass\n'
    )
    source += 'for f in ("--g", "--h"): add(f)\nNAMES = ["--i"]\nfor f in NAMES: p.add_argument(f)\n'
    source += (
        'def own(name, **more): p.add_argument(name, **more)\nown("--j")\nfor f, t in (("--k", int),): own(f, type=t)\n'
    )
    source += 'print("--l")\nsubprocess.run(["x", "--m"])\np.error("--n")\nfor f in ["--o"]: print(f)\n'
    assert flags_in_source(source) == {f"--{name}" for name in "a e no-e g h i j k".split()}
    assert flags_in_source("def broken(") == frozenset()


def test_trainers_are_found_in_the_order_of_the_mode(tmp_path: Path):
    (tmp_path / "scripts" / "finetuning").mkdir(parents=True)
    (tmp_path / "scripts" / "train.py").touch()
    nowhere = tmp_path / "nowhere"
    assert find_trainer(None, "sft", tmp_path, nowhere).path == tmp_path / "scripts" / "train.py"
    grpo = tmp_path / "scripts" / "finetuning" / "finetune_grpo.py"
    grpo.touch()
    assert find_trainer(None, "grpo", tmp_path, nowhere).path == grpo
    assert find_trainer(None, "sft", tmp_path, nowhere).path == tmp_path / "scripts" / "train.py"
    offered = [(name, facts.other_mode) for name, facts in find_trainers("sft", tmp_path, nowhere)]
    assert offered == [("scripts/train.py", False), ("scripts/finetuning/finetune_grpo.py", True)]
    (tmp_path / "scripts" / "train.py").unlink()
    for name in (None, "scripts/finetuning/finetune_grpo.py"):  # the other mode's, even if the spec names it
        other = find_trainer(name, "sft", tmp_path, nowhere)
        assert (other.path, other.other_mode) == (grpo, True)
    assert find_trainers("sft", nowhere, nowhere) == []
    assert "no trainer found" in find_trainer("mine.py", "sft", tmp_path, nowhere).problem


def test_dpo_takes_its_own_trainer_first_and_another_modes_last(tmp_path: Path):
    folder, nowhere = tmp_path / "scripts" / "finetuning", tmp_path / "nowhere"
    folder.mkdir(parents=True)
    names = [f"scripts/finetuning/finetune_{mode}.py" for mode in ("dpo", "sft", "grpo")]
    for name in (*names, "scripts/finetuning/train.py"):
        (tmp_path / name).touch()
    offered = [(name, facts.other_mode) for name, facts in find_trainers("dpo", tmp_path, nowhere)]
    assert offered == [(names[0], False), ("scripts/finetuning/train.py", False), (names[1], True), (names[2], True)]
    assert find_trainer(None, "dpo", tmp_path, nowhere).path == tmp_path / names[0]


def test_prose_below_the_options_defines_nothing():
    text = "options:\n  --base B  the base\n\nNote that\n  --model M  is not there any more.\n"
    assert flags_in_help(text) == {"--base"}
