"""GGUF files by llama.cpp's own converter and quantiser, run by llama.cpp itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dimba.common.errors import BadInput, HostCannot
from dimba.trainers.export.gguf import convert as converting
from dimba.trainers.export.gguf import library
from dimba.trainers.export.gguf.convert import convert
from dimba.trainers.export.gguf.engine import LlamaModel
from dimba.trainers.export.gguf.known import Recipe, known_classes, recognised, tokenizer_problem
from dimba.trainers.export.gguf.pretokenizers import pre_tokenizer
from dimba.trainers.export.gguf.probes import PROBES
from tests.conftest import MAKE_LLAMA
from tests.trainers.gguf import FAMILIES, STOPS, make_family

needs_llama = pytest.mark.usefixtures("llama_wheel")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = make_family(name, tmp_path_factory.mktemp("families") / name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def gguf(family: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[tuple[str, str], Path] = {}

    def get(name: str, kind: str = "f16") -> Path:
        if (name, kind) not in made:
            made[name, kind] = tmp_path_factory.mktemp("files") / f"{name}-{kind}.gguf"
            convert(family(name), made[name, kind], kind, lambda _line: None)
        return made[name, kind]

    return get


def both(folder: Path, file: Path, text: str) -> tuple[Any, Any]:
    """The logits of transformers and of llama.cpp for the tokens of `text`."""
    ids = AutoTokenizer.from_pretrained(folder).encode(text)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad(), LlamaModel(file) as other:
        return model(torch.tensor([ids])).logits[0].numpy(), other.logits(ids)


@needs_llama
@pytest.mark.proof
@pytest.mark.parametrize("name", FAMILIES)
def test_an_f16_gguf_run_by_llama_cpp_has_the_likeliest_tokens_of_the_model(name: str, family: Any, gguf: Any):
    ours, theirs = both(family(name), gguf(name), " ".join(PROBES))
    assert len(ours) > 256, "more than llama.cpp is given at once"
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) >= 0.99
    assert np.abs(ours - theirs).max() < 0.02 * np.abs(ours).max()


@needs_llama
@pytest.mark.proof
def test_a_quantised_gguf_is_smaller_and_still_close(family: Any, gguf: Any):
    ours, theirs = both(family("llama"), gguf("llama", "q8_0"), " ".join(PROBES))
    assert gguf("llama", "q8_0").stat().st_size < gguf("llama").stat().st_size
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) >= 0.95
    assert sorted(path.name for path in gguf("llama", "q8_0").parent.iterdir()) == ["llama-q8_0.gguf"]


@needs_llama
@pytest.mark.proof
def test_the_file_has_the_template_the_end_token_the_context_and_the_tokens_of_the_model(family: Any, gguf: Any):
    tokenizer = AutoTokenizer.from_pretrained(family("qwen3"))
    with LlamaModel(gguf("qwen3")) as model:
        assert model.chat_template() == tokenizer.chat_template
        assert {tokenizer.eos_token_id, STOPS} <= model.end_tokens() and len(model.end_tokens()) < 5
        assert (model.context, model.vocabulary) == (512, len(tokenizer))
        assert [model.tokenize(text) for text in PROBES] == [tokenizer.encode(text) for text in PROBES]


@needs_llama
@pytest.mark.proof
def test_how_a_tokenizer_splits_text_is_recognised_by_its_definition_and_proved_by_its_tokens(family: Any):
    recipes = {name: recognised(family(name)) for name in FAMILIES}
    assert {name: recipe.pre for name, recipe in recipes.items()} == {
        "llama": "llama-bpe", "qwen3": "qwen2", "gpt2": "gpt-2", "mistral": "",
    }  # fmt: skip
    assert not any(recipe.problem for recipe in recipes.values())
    assert not recipes["mistral"].prefix_space, "a conversation has a space in front of its first word alone"


@needs_llama
@pytest.mark.proof
def test_a_tokenizer_that_llama_cpp_would_split_otherwise_is_refused_by_its_tokens(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(family("qwen3"), tmp_path / "model")
    monkeypatch.setattr("dimba.trainers.export.gguf.known.pre_tokenizer", lambda _folder: "gpt-2")
    assert "into other tokens" in tokenizer_problem(folder)


@needs_llama
@pytest.mark.proof
def test_a_tokenizer_or_a_class_that_llama_cpp_does_not_know_is_refused_before_anything_is_converted(
    family: Any, tmp_path: Path
):
    folder, out = shutil.copytree(family("gpt2"), tmp_path / "model"), tmp_path / "out" / "x.gguf"
    edit(folder / "tokenizer.json", lambda value: value["pre_tokenizer"].update(add_prefix_space=True))
    assert "how this base's tokenizer splits text" in tokenizer_problem(folder)
    edit(folder / "config.json", lambda value: value.update(architectures=["BloopForCausalLM"]))
    with pytest.raises(BadInput) as raised:
        convert(folder, out, "f16", print)
    assert raised.value.cause == "llama.cpp's converter does not know the model class `BloopForCausalLM`"
    assert "--merged" in raised.value.hint and not out.parent.exists()


def edit(file: Path, change: Any) -> None:
    value = json.loads(file.read_text(encoding="utf-8"))
    change(value)
    file.write_text(json.dumps(value), encoding="utf-8")


@needs_llama
@pytest.mark.proof
def test_the_classes_are_those_of_the_converter():
    known = known_classes()
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel", "Gemma3ForCausalLM"} <= known
    assert "BloopForCausalLM" not in known and len(known) > 100


@needs_llama
@pytest.mark.proof
def test_a_gguf_that_llama_cpp_does_not_load_is_not_left_behind(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, out = shutil.copytree(family("llama"), tmp_path / "model"), tmp_path / "out" / "x.gguf"
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    monkeypatch.setattr(converting, "recognised", lambda _folder: recognised(family("llama")))
    with pytest.raises(BadInput) as raised:
        convert(folder, out, "f16", lambda _line: None)
    assert raised.value.cause == (
        "the converted model is not complete: llama.cpp cannot load it: tensor 'token_embd.weight' not found"
    )
    assert list(out.parent.iterdir()) == []


@needs_llama
@pytest.mark.proof
def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(converting, "recognised", lambda _folder: Recipe())
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(HostCannot) as raised:
        convert(family("llama"), tmp_path / "x.gguf", "q4_k_m", print)
    assert "has 976.6 KiB free" in raised.value.cause and not list(tmp_path.iterdir())


@needs_llama
@pytest.mark.proof
def test_a_broken_file_is_an_error_with_llama_cpps_reason(gguf: Any, tmp_path: Path):
    (tmp_path / "cut.gguf").write_bytes(gguf("gpt2").read_bytes()[:-4096])
    (tmp_path / "other.gguf").write_text("no model")
    for name, reason in (("cut", "not within the file bounds"), ("other", "magic"), ("missing", "cannot load it")):
        with pytest.raises(BadInput) as raised:
            LlamaModel(tmp_path / f"{name}.gguf")
        assert reason in raised.value.message


def test_an_unknown_type_of_gguf_is_refused_with_the_known_ones(tmp_path: Path):
    with pytest.raises(BadInput) as raised:
        convert(tmp_path, tmp_path / "x.gguf", "q4_k_xl", print)
    assert "q4_k_xl" in raised.value.cause and "q4_k_m" in raised.value.hint


def test_without_llama_cpp_the_error_names_the_command_that_makes_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "is_here", lambda: False)
    with pytest.raises(HostCannot) as raised:
        library.bindings()
    assert str(MAKE_LLAMA) in raised.value.hint


def test_a_processor_without_the_instructions_is_an_error_rather_than_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu sse4_2 avx f16c fma bmi2\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert library._lacking_instructions(tmp_path / "cpuinfo") == ["avx2"]


def test_the_versions_of_llama_cpp_agree():
    text = MAKE_LLAMA.read_text(encoding="utf-8")
    sdist, recipe = (text.partition(f"\n{name} = ")[2].split()[0].strip('"') for name in ("SDIST", "RECIPE"))
    assert f"{sdist}.{recipe}" == library.VERSION
    assert library.SENTENCEPIECE in (MAKE_LLAMA.parent / "requirements.txt").read_text(encoding="utf-8")


def test_a_split_that_differs_in_one_sign_has_no_name(tmp_path: Path):
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated", "invert": False}
    steps = [split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]
    value = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    assert pre_tokenizer(tmp_path) == ""
