"""Calls of tools are found in an answer as the model's own template writes them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trl

from dimba.common.errors import Location
from dimba.common.inference import TEXT, Prompt, Sampling
from dimba.common.trained import TrainedModel
from dimba.trainers.data.render import Renderer
from dimba.trainers.inference.calls import CallFormat, PartsWithoutCalls, call_format

TOOLS = ({"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}},)
FUNCTIONS = [{"name": "look", "arguments": {"at": 'a {blue} "sky"', "n": [1, 2]}}, {"name": "hear", "arguments": {}}]
JSON_FAMILIES = ("qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl", "llama3_1", "llama3_2")
OTHER_FAMILIES = ("deepseekv3", "gemma4", "glm4moe", "gptoss", "llama3", "phi3", "qwen3_5_think")
HERMES = CallFormat("<tool_call>", "name", "arguments")
BARE = CallFormat("", "name", "parameters")
HERMES_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint)


def rendering(tokenizer: Any, family: str) -> Any:
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja").read_text()
    renderer = Renderer(tokenizer)
    return lambda messages, ask: renderer.text(messages, TOOLS, Location("x"), ask=ask)


@pytest.mark.parametrize("family", JSON_FAMILIES)
def test_calls_that_a_template_writes_are_read_back(tokenizer: Any, family: str):
    render = rendering(tokenizer, family)
    form = call_format(render)
    assert form is not None
    several = FUNCTIONS if form.opening else FUNCTIONS[:1]  # Llama's templates take one call per answer
    calls = [{"id": "abcdefghi", "type": "function", "function": each} for each in several]
    question = {"role": "user", "content": "Hi"}
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    header = render([question], True).rstrip().removesuffix("</think>").removesuffix("<think>").rstrip()
    _, found = form.parse(render([question, answer], False).removeprefix(header).lstrip())
    assert [{"name": each["name"], "arguments": json.loads(each["arguments"])} for each in found] == several


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_a_template_that_writes_calls_otherwise_or_not_at_all_has_no_form(tokenizer: Any, family: str):
    assert call_format(rendering(tokenizer, family)) is None


@pytest.mark.parametrize(
    ("form", "text", "content", "names"),
    [
        (HERMES, 'Hm.\n<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>', "Hm.", ["a"]),
        (HERMES, '<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "b"}</tool_call>', "", ["a", "b"]),
        (HERMES, 'Use <tool_call> as {"x": 1}.', 'Use <tool_call> as {"x": 1}.', []),
        (HERMES, '<tool_call>\n{"name": "a", "arg', '<tool_call>\n{"name": "a", "arg', []),
        (HERMES, 'It is {"name": "a", "arguments": {}}', 'It is {"name": "a", "arguments": {}}', []),
        (BARE, ' {"name": "a", "parameters": {"x": 1}}', "", ["a"]),
        (BARE, 'See {"name": "a", "parameters": {"x": 1}}', 'See {"name": "a", "parameters": {"x": 1}}', []),
        (BARE, '{"colour": "blue"}', '{"colour": "blue"}', []),
        (BARE, "[" * 5000, "[" * 5000, []),
    ],
)
def test_only_objects_with_a_name_behind_the_mark_are_calls(form: CallFormat, text: str, content: str, names: list):
    found, calls = form.parse(text)
    assert (found, [call["name"] for call in calls]) == (content, names)


@pytest.mark.parametrize(
    ("form", "text", "early"),
    [
        (HERMES, 'Hm. <tool_call>{"name": "a"}', "Hm. "),
        (HERMES, "a <tool and <tool_calls> x", "a <tool and <tool_calls> x"),
        (HERMES, "a <tool", "a "),
        (BARE, '{"name": "a"}', ""),
        (BARE, 'No: {"name": "a"}', 'No: {"name": "a"}'),
    ],
)
def test_text_streams_until_a_call_may_begin_and_nothing_is_lost(form: CallFormat, text: str, early: str):
    parts: list[str] = []
    stream = PartsWithoutCalls(form, lambda _kind, part: parts.append(part))
    for letter in text:
        stream.part(TEXT, letter)
    assert "".join(parts) == early
    stream.end([])
    assert "".join(parts) == text


def _note(parts: list[str], _kind: str, text: str) -> None:
    parts.append(text)


def test_an_answer_has_its_calls_apart_where_the_prompt_asks_for_it(tiny_checkpoint: Path):
    from dimba.trainers.inference.speaker import Speaker
    from dimba.trainers.models.trained import Loading, load_trained

    speaker = Speaker(load_trained(TrainedModel(folder=str(tiny_checkpoint)), Loading()))
    tokenizer, written = speaker.loaded.tokenizer, 'Hm.\n<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n'
    tokenizer.chat_template = HERMES_TEMPLATE
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]

    def generate(batch: Any, sampling: Any, is_stopped: Any, streamer: Any) -> list[list[int]]:
        import torch

        for each in [[0], *([token] for token in ids)]:
            streamer.put(torch.tensor(each))
        streamer.end()
        return [ids]

    speaker.generate = generate  # type: ignore[method-assign]  # a model that calls is too large for a test
    for splits in (True, False):
        parts: list[str] = []
        prompt = Prompt(messages=({"role": "user", "content": "Hi"},), tools=TOOLS, splits_calls=splits)
        encoded = speaker.encode(prompt, Location("x"))
        found = speaker.stream(encoded, Sampling(), partial(_note, parts), lambda: False)
        expected = ({"name": "look", "arguments": '{"at": 1}'},) if splits else ()
        assert found.calls == expected
        assert "".join(parts).strip() == found.text.strip() == ("Hm." if splits else written.strip())
