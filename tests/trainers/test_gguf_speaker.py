"""A GGUF file answers as the model that it was exported from."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from dimba.common.errors import BadInput, Location
from dimba.common.inference import LENGTH, STOPPED, TEXT, Answer, Prompt, Sampling
from dimba.common.trained import TrainedModel, gguf_in
from dimba.jobs.model_source import ModelRequest, find_model
from dimba.trainers.export.gguf.convert import convert
from dimba.trainers.inference.gguf_speaker import GgufSpeaker
from dimba.trainers.inference.speaker import Speaker
from dimba.trainers.models.trained import Loading, load_trained
from tests.commands.test_serve import Quiet
from tests.serving import served
from tests.trainers.gguf import make_family

pytestmark = [pytest.mark.usefixtures("llama_wheel"), pytest.mark.proof]


@pytest.fixture(scope="module", params=["llama", "qwen3", "mistral"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF of a tiny model, in a folder below it as an export is."""
    folder = make_family(request.param, tmp_path_factory.mktemp("exported") / request.param)
    (folder / "gguf").mkdir()
    (folder / "gguf" / "export.json").write_text("{}", encoding="utf-8")
    file = folder / "gguf" / f"{request.param}-f16.gguf"
    convert(folder, file, "f16", lambda _line: None)
    return file


@pytest.fixture(scope="module")
def both(exported: Path) -> tuple[Speaker, Speaker]:
    model = str(exported.parents[1])
    trained = TrainedModel(folder=model)
    return Speaker(load_trained(trained, Loading())), GgufSpeaker.of(TrainedModel(folder=model, gguf=str(exported)))


def answer(speaker: Speaker, text: str, **how: Any) -> tuple[Answer, str]:
    parts: list[str] = []
    encoded = speaker.encode(Prompt(messages=({"role": "user", "content": text},)), Location("x"))
    sampling = Sampling(**{"max_new_tokens": 24, **how})
    found = speaker.stream(encoded, sampling, lambda kind, part: parts.append(part) if kind == TEXT else None, never)
    return found, "".join(parts)


def never() -> bool:
    return False


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_it_answers_as_its_model_does_also_after_another_answer(both: tuple[Speaker, Speaker], temperature: float):
    model, gguf = both
    same = 0
    for number, text in enumerate(("What colour is the sky?", "And grass? " * 40, "Hello")):
        expected, _ = answer(model, text, temperature=temperature, seed=number)
        found, streamed = answer(gguf, text, temperature=temperature, seed=number)
        assert len(streamed) == len(found.text)
        assert all(each in (part, "\ufffd") for part, each in zip(streamed, found.text, strict=True))
        assert (found.prompt_tokens, found.finish) == (expected.prompt_tokens, expected.finish)
        same += found.text == expected.text
    assert same >= 2, "float16 weights may choose another token in a close race, after which all differ"


def test_it_stops_where_its_model_does(both: tuple[Speaker, Speaker]):
    model, gguf = both
    assert set(model.loaded.ends) <= set(gguf.loaded.ends)
    assert answer(gguf, "Hello", max_new_tokens=3)[0].finish == LENGTH
    encoded = gguf.encode(Prompt(messages=({"role": "user", "content": "Hi"},)), Location("x"))
    seen: list[str] = []
    found = gguf.stream(encoded, Sampling(), lambda _kind, part: seen.append(part), lambda: len(seen) > 2)
    assert found.finish == STOPPED and found.tokens < 20
    with pytest.raises(BadInput, match="the model's context is 512"):
        answer(gguf, "word " * 600)


@pytest.mark.parametrize("exported", ["llama"], indirect=True)
def test_a_gguf_file_or_its_folder_is_found_with_the_tokenizer_above_it(exported: Path):
    for name in (exported, exported.parent):
        source = find_model(str(name), ModelRequest(runner="process"), Quiet())  # type: ignore[arg-type]
        assert (source.trained.gguf, source.name) == (str(exported), exported.stem)
        assert source.folder == exported.parents[1] and source.image_extra == "-gguf"
    with pytest.raises(BadInput, match=r"llama\.cpp alone runs"):
        load_trained(source.trained, Loading())


@pytest.mark.parametrize("exported", ["llama"], indirect=True)
def test_one_of_several_files_has_to_be_named_and_a_lone_file_is_refused(exported: Path, tmp_path: Path):
    (tmp_path / "export.json").touch()
    (tmp_path / "a.gguf").write_bytes(exported.read_bytes())
    with pytest.raises(BadInput, match="tokenizer"):
        find_model(str(tmp_path), ModelRequest(), Quiet())  # type: ignore[arg-type]
    (tmp_path / "b.gguf").touch()
    with pytest.raises(BadInput, match="2 GGUF files"):
        gguf_in(tmp_path)


@pytest.mark.parametrize("exported", ["llama"], indirect=True)
def test_a_gguf_is_served_and_generates_beside_its_model(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("XDG_CACHE_HOME")  # that of the tests has no llama.cpp
    with served(tmp_path, str(exported.parent), "--runner", "process", "--port", "0") as serving:
        assert serving.model == exported.stem
        client = openai.OpenAI(base_url=serving.url, api_key="none", max_retries=0)
        messages: Any = [{"role": "user", "content": "Hello"}]
        found = client.chat.completions.create(model=serving.model, messages=messages, max_tokens=5, temperature=0)
        assert found.usage and 0 < found.usage.completion_tokens <= 5
    command = [sys.executable, "-m", "dimba", "generate", str(exported), "Hello", "--max-new-tokens", "5"]
    more = ["--against", str(exported.parents[1]), "--runner", "process", "--gpus", "none", "--json"]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.choices[0].message.content == json.loads(done.stdout)["answer"]
