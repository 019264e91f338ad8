"""The save is rehearsed before the first step, keeps the base's precision, and equals the model in memory."""

import io
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dimba.objectives.registry import OBJECTIVES
from tests.conftest import QUESTIONS, write_rows

pytestmark = pytest.mark.slow

PAIRS = [{"prompt": row["question"], "chosen": row["answer"], "rejected": "No."} for row in QUESTIONS]
ROWS: dict[str, list[dict[str, str]]] = {"sft": QUESTIONS, "dpo": PAIRS, "grpo": QUESTIONS}
FLAGS = ("--batch-size", "4", "--grad-accumulation-steps", "1", "--max-length", "64", "--device", "cpu")
GROUPS = ("--num-generations", "4", "--max-completion-length", "4", "--reward", "length", "--learning-rate", "1e-3")
MODES = {"sft": ("--max-steps", "3"), "dpo": ("--max-steps", "3"), "grpo": ("--max-steps", "1", *GROUPS)}


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, caches: Path) -> Iterator[None]:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))


def train(mode: str, base: Path, out: Path, *flags: object, status: int = 0) -> str:
    """The output of the trainer, run in this process."""
    from dimba.trainers.command import run_trainer

    rows = write_rows(out.parent / f"{mode}.jsonl", ROWS[mode])
    named = {"--base-checkpoint": base, "--dataset": rows, "--output-dir": out}
    argv = [str(each) for pair in named.items() for each in pair] + [*FLAGS, *MODES[mode], *map(str, flags)]
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        run = import_module(f"dimba.trainers.objectives.{mode}.train").train
        ended = run_trainer(run, OBJECTIVES[mode].parse(argv))
    assert ended == status, text.getvalue()
    return text.getvalue()


def edit(file: Path, **keys: Any) -> None:
    value = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**value, **keys}))


def learning(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "learning.json").read_text())
    return found


def in_type(base: Path, name: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = {key: each.to(getattr(torch, name)) for key, each in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    edit(base / "config.json", dtype=name)


@pytest.mark.parametrize("mode", ["sft", *(pytest.param(mode, marks=pytest.mark.proof) for mode in ("dpo", "grpo"))])
def test_sampling_flags_in_the_generation_config_are_saved_with_the_model(mode: str, base: Path, tmp_path: Path):
    edit(base / "generation_config.json", bos_token_id=1, eos_token_id=2, temperature=0.9, top_p=0.6)
    output = train(mode, base, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved["do_sample"] is True and saved["temperature"] == 0.9
    assert output.count("generation config: `do_sample` is set to true") == 1
    assert learning(tmp_path / "out")["saved_model"] == "equal"
    assert not (tmp_path / "out" / ".saving").exists()


@pytest.mark.proof
def test_a_run_that_failed_at_its_save_resumes_from_its_checkpoint(base: Path, tmp_path: Path):
    edit(base / "generation_config.json", bos_token_id=1, eos_token_id=2, temperature=0.9)
    train("sft", base, tmp_path / "out")
    for name in ("model.safetensors", "generation_config.json", "learning.json"):
        (tmp_path / "out" / name).unlink()
    train("sft", base, tmp_path / "out", "--resume-from-checkpoint", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert learning(tmp_path / "out")["learned"] is True, "no step was left, but the weights are not the base's"


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_model_is_saved_in_the_base_s_precision_and_its_checkpoints_in_float32(name: str, base: Path, tmp_path: Path):
    in_type(base, name)
    output = train("sft", base, tmp_path / "out", "--learning-rate", "1e-3")
    assert f"({name}, as the base; it was trained in float32)" in output
    assert types(tmp_path / "out") == {f"torch.{name}"} and types(tmp_path / "out/checkpoint-3") == {"torch.float32"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == name
    assert learning(tmp_path / "out")["learned"] and learning(tmp_path / "out")["saved_model"] == "equal"


def types(folder: Path) -> set[str]:
    from safetensors.torch import load_file

    return {str(each.dtype) for each in load_file(folder / "model.safetensors").values()}


def test_a_tensor_that_the_base_keeps_in_float32_stays_in_float32(base: Path):
    import torch
    from safetensors.torch import load_file, save_file

    from dimba.trainers.models.precision import base_precision

    in_type(base, "bfloat16")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    found = base_precision(str(base))
    cast = found.weights({name: each.float() for name, each in weights.items()})
    assert cast["model.norm.weight"].dtype == torch.float32 and cast["lm_head.weight"].dtype == torch.bfloat16


def test_a_weight_beyond_the_range_of_float16_is_noticed():
    import torch

    from dimba.trainers.models.precision import Precision

    half = Precision(torch.float16)
    assert half.holds({"a": torch.tensor([6e4])}) and not half.holds({"a": torch.tensor([7e4])})
    assert Precision(torch.bfloat16).holds({"a": torch.tensor([7e4])})


@pytest.mark.parametrize("flag", ["", "--use-lora", "--use-qlora"])
def test_a_model_that_cannot_be_saved_is_refused_before_the_first_step(
    flag: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no such thing")

    owner = "peft.PeftModel" if flag else "transformers.PreTrainedModel"
    monkeypatch.setattr(f"{owner}.save_pretrained", fail)
    output = train("sft", base, tmp_path / "out", *filter(None, [flag]), status=2)
    assert f"the model of {base} could not be saved at the end of the run: no such thing" in output
    assert "training:" not in output and not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_another_one_once_it_is_saved_is_refused_before_the_first_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from transformers import PreTrainedTokenizerBase

    original = PreTrainedTokenizerBase.save_pretrained

    def spoil(self: Any, folder: Any, **options: Any) -> Any:
        saved = original(self, folder, **options)
        Path(folder, "chat_template.jinja").write_text("{{ messages }}")
        return saved

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", spoil)
    output = train("sft", base, tmp_path / "out", status=2)
    assert "its chat template is another one" in output and "training:" not in output


def test_a_chat_template_under_a_name_that_is_no_file_name_is_left_out(tiny_checkpoint: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    from dimba.trainers.models.rehearsal import check_tokenizer, drop_unsavable_templates

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "a/b": "x", "tool_use": "y"}
    [note] = drop_unsavable_templates(tokenizer)
    assert "'a/b'" in note and set(tokenizer.chat_template) == {"default", "tool_use"}
    check_tokenizer(tokenizer, tmp_path / "saved")


@pytest.mark.proof
def test_of_a_large_model_all_but_the_large_tensors_is_rehearsed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in ("rehearsal", "saved_model"):
        monkeypatch.setattr(f"dimba.trainers.models.{module}.LARGE", 0)
    in_type(base, "bfloat16")
    train("sft", base, tmp_path / "out", "--learning-rate", "1e-3")
    assert learning(tmp_path / "out")["saved_model"] == "equal"


@pytest.mark.proof
def test_continuations_before_and_after_are_shown_and_written(tiny_checkpoint: Path, tmp_path: Path):
    flags = ("--max-steps", "30", "--learning-rate", "3e-3", "--validation-split", "3")
    output = train("sft", tiny_checkpoint, tmp_path / "out", *flags)
    found = learning(tmp_path / "out")
    assert found["learned"] and len(found["continuations"]) == 3 and found["changed_tensors"] == 21
    assert all(row["changed"] and row["before"] != row["after"] for row in found["continuations"])
    assert "learned: 21 of 21 trained tensors changed, 3 of 3 continuations" in output
    assert found["continuations"][0]["after"] in output


@pytest.mark.proof
def test_one_step_with_a_warm_up_that_starts_at_0_learns_nothing(tiny_checkpoint: Path, tmp_path: Path):
    output = train("sft", tiny_checkpoint, tmp_path / "out", "--max-steps", "1", "--use-lora")
    assert "warning: nothing was learned: the learning rate was 0 in 1 step" in output
    assert learning(tmp_path / "out")["learned"] is False


@pytest.mark.proof
def test_equal_rewards_in_every_group_teach_nothing(tiny_checkpoint: Path, tmp_path: Path):
    output = train("grpo", tiny_checkpoint, tmp_path / "out", "--reward", "exact_match", "--max-steps", "1")
    assert "warning: nothing was learned: in every group all completions got the same reward" in output
    assert learning(tmp_path / "out")["changed_tensors"] == 0


@pytest.mark.proof
@pytest.mark.parametrize("flag", ["", "--use-lora"])
def test_a_saved_model_with_other_weights_is_noticed(
    flag: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import dimba.trainers.objectives.example_run as run
    from dimba.trainers.models.saving import save

    def spoil(trainer: Any, folder: str, precision: Any) -> None:
        from safetensors.torch import load_file, save_file

        save(trainer, folder, precision)
        [file] = [*Path(folder).glob("*model.safetensors")]
        weights = {name: each + 0.5 for name, each in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})

    monkeypatch.setattr(run, "save", spoil)
    output = train("sft", base, tmp_path / "out", *filter(None, [flag]))
    assert "warning: the saved model is not the trained one: " in output
