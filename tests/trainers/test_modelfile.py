"""Ollama's Modelfile: the chat template as a Go template, or the reason why there is none."""

from typing import Any

import pytest

from dimba.common.errors import BadInput, UnusableRow
from dimba.trainers.export.gguf.go_template import Form, rendered
from dimba.trainers.export.gguf.modelfile import HELD_OUT, modelfile
from dimba.trainers.tiny import TEMPLATE
from tests.trainers.gguf import byte_level, pre_tokenizers

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A system prompt inside the first question, and each question begins a sequence: Llama 2's.
INST = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}"
    "{{ bos_token }}[INST] {% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}"
    "{{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "<start_of_turn>model\n"
)
BRACES = "{% for m in messages %}{{ '{{' }}{{ m.role }}}}{{ m.content }}{% endfor %}{{ '{{' }}assistant}}"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), begins=True)


def text_of(tokenizer: Any, template: str, turns: Any) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True
    ).removeprefix("<|begin|>")


@pytest.mark.parametrize("template", [TEMPLATE, "<|begin|>" + CHATML, INST, NO_SYSTEM, "<|begin|>" + BRACES])
def test_the_go_template_gives_the_text_of_the_chat_template(template: str, tokenizer: Any):
    tokenizer.chat_template = template
    text = modelfile(tokenizer, "x.gguf", ["<|end|>", "</s>", "<|end|>"])
    before, source, after = text.split('"""')
    assert before.endswith("FROM ./x.gguf\nTEMPLATE ")
    assert after == '\nPARAMETER stop "<|end|>"\nPARAMETER stop "</s>"\n'
    takes_system = "takes no system prompt" not in before
    compared = [turns for turns in HELD_OUT if takes_system or turns[0][0] != "system"]
    assert len(compared) == (8 if takes_system else 4) and takes_system == (template != NO_SYSTEM)
    for turns in compared:
        assert rendered(source, turns) == text_of(tokenizer, template, turns)


REFUSED = {
    "{{ bos_token }}{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}": "more than their roles",
    "{{ bos_token }}{% for m in messages %}{{ m.content | upper }}\n{% endfor %}": "leaves out or moves a message",
    "{{ bos_token }}{% for m in messages %}{{ m.content | replace('4', '5') }}\n{% endfor %}": "changes the text",
    "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}|{% endfor %}": "the date",
    "{{ bos_token }}{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}|{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}": "moves a message",
    "{{ bos_token }}{{ raise_exception('no') }}": "raises `no`",
    CHATML: "puts `<|begin|>` in front of each prompt",
    '{{ bos_token }}"""{% for m in messages %}{{ m.content }}|{% endfor %}': "quotation marks",
}  # fmt: skip


@pytest.mark.parametrize("template", REFUSED)
def test_a_template_that_ollama_cannot_express_is_refused_by_the_reason(template: str, tokenizer: Any):
    tokenizer.chat_template = template
    with pytest.raises(BadInput) as raised:
        modelfile(tokenizer, "x.gguf", [])
    assert REFUSED[template] in raised.value.cause and "--jinja" in raised.value.hint


def test_a_template_that_removes_reasoning_from_earlier_answers_says_that_ollama_does_not(tokenizer: Any):
    tokenizer.chat_template = "<|begin|>" + CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    assert "# The model's template removes reasoning" in modelfile(tokenizer, "x.gguf", [])


def test_a_renderer_that_refuses_a_system_prompt_in_its_own_words_means_that_there_is_none(tokenizer: Any):
    tokenizer.chat_template = NO_SYSTEM

    def render(turns: Any) -> str:
        if turns[0][0] == "system":
            raise UnusableRow("has a system prompt")
        return "<|begin|>" + text_of(tokenizer, NO_SYSTEM, turns)

    assert "takes no system prompt" in modelfile(tokenizer, "x.gguf", [], render)


def test_a_model_without_a_chat_template_has_no_modelfile(tokenizer: Any):
    tokenizer.chat_template = None
    with pytest.raises(BadInput) as raised:
        modelfile(tokenizer, "x.gguf", [])
    assert "the model has none" in raised.value.cause


def test_the_texts_between_messages_depend_on_role_place_and_system_prompt():
    form = Form(first="<1>", answer="<a>", question="<q>", end="<e>", system=("<s>", "</s>"))
    talk = (("user", "x"), ("assistant", "y"), ("user", "z"))
    assert rendered(form.source(), talk) == "<1>x<a>y<q>z<e>"
    assert rendered(form.source(), (("system", "S"), *talk)) == "<s>S</s>x<a>y<q>z<e>"
