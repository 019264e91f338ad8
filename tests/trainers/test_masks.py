"""Difficult templates and contents: the decoded tokens that carry loss, and the reasons of refusals."""

import datetime
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dimba.common.errors import Location, UnusableRow
from dimba.dataset.formats import Sample
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.render import Unmaskable
from dimba.trainers.tiny import TEMPLATE
from tests.trainers.test_chat import DROPS_REASONING, MERGES_SYSTEM

ASK = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
DATED = "{{ strftime_now('%H:%M:%S.%f') }}" + TEMPLATE
TWO_ENDS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|pad|><|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ENDS_THE_CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ bos_token }}{% endif %}"
)
OPENS_THOUGHT = TEMPLATE.replace("<|assistant|>\n{% endif", "<|assistant|>\n<think>\n{% endif")
TYPED = "{% for m in messages %}<|{{ m.role }}|>\n{% for p in m.content %}{{ p.text }}{% endfor %}<|end|>\n{% endfor %}"
TYPED += ASK
COUNTS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>"
    "{% endgeneration %}{% else %}{{ m.content | length }} {{ m.content }}<|end|>{% endif %}\n{% endfor %}"
)
LOOKS_INTO = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ '!' if m.content.startswith('Hi') }}{{ m.content }}<|end|>\n"
    "{% endfor %}"
)
CALLS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|end|>\n{% endfor %}" + ASK
)
CHAT = (
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "It is 2."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "It is 4."},
)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint)


def runs(tokenizer: Any, example: Any) -> list[str]:
    """The runs of tokens that carry loss, decoded."""
    found: list[list[int]] = []
    before = False
    for token, now in zip(example.input_ids.tolist(), example.trained.tolist(), strict=True):
        if now and not before:
            found.append([])
        if now:
            found[-1].append(token)
        before = now
    return [tokenizer.decode(run) for run in found]


def trained(
    tokenizer: Any, template: str, messages: Any = CHAT, *, only: tuple[int, ...] | None = None, **options: Any
) -> list[str]:
    tokenizer.chat_template = template
    flags = tuple(m["role"] == "assistant" and (only is None or n in only) for n, m in enumerate(messages))
    encoder = ChatEncoder(tokenizer, **options)
    [example] = encoder.encode_batch(
        [encoder.render(Sample(messages=tuple(messages), trained=flags), Location("here"))]
    )
    if isinstance(example, Unmaskable):
        raise example
    return runs(tokenizer, example)


BOTH = ["It is 2.<|end|>", "It is 4.<|end|>"]


@pytest.mark.parametrize("template", [TEMPLATE, DATED, ENDS_THE_CHAT, OPENS_THOUGHT, TYPED, CALLS, DROPS_REASONING])
def test_templates_of_many_kinds_train_both_turns(tokenizer, template: str):
    assert trained(tokenizer, template) == BOTH


def test_only_flagged_turns_carry_loss(tokenizer):
    assert trained(tokenizer, TEMPLATE, only=(1,)) == BOTH[:1]
    assert trained(tokenizer, TEMPLATE, only=(3,)) == BOTH[1:]
    assert trained(tokenizer, TEMPLATE, only=()) == []


def test_train_on_last_trains_only_the_last_flagged_turn(tokenizer):
    assert trained(tokenizer, TEMPLATE, train_on="last") == BOTH[1:]
    assert trained(tokenizer, TEMPLATE, only=(1,), train_on="last") == BOTH[:1]


def test_two_end_tokens_of_a_turn_are_both_trained(tokenizer):
    assert trained(tokenizer, TWO_ENDS) == ["It is 2.<|pad|><|end|>", "It is 4.<|pad|><|end|>"]


def test_a_template_that_prints_the_time_prints_the_same_for_all_rows(tokenizer):
    from transformers.utils import chat_template_utils

    tokenizer.chat_template = DATED
    encoder = ChatEncoder(tokenizer)
    sample = Sample(messages=CHAT, trained=(False, True, False, True))
    assert len({encoder.render(sample, Location("here")).text for _ in range(3)}) == 1
    assert chat_template_utils.datetime is datetime.datetime


def test_reasoning_opened_by_the_generation_prompt_is_trained_behind_its_tag(tokenizer):
    chat = [*CHAT[:3], {"role": "assistant", "content": "<think>\nhm\n</think>\nIt is 4."}]
    assert trained(tokenizer, OPENS_THOUGHT, chat) == [BOTH[0], "hm\n</think>\nIt is 4.<|end|>"]


def test_a_turn_shown_in_part_only_is_counted(tokenizer):
    tokenizer.chat_template = DROPS_REASONING
    encoder = ChatEncoder(tokenizer)
    chat = (CHAT[0], {"role": "assistant", "content": "<think>hm</think>2"}, *CHAT[2:])
    flags = (False, True, False, True)
    assert encoder.render(Sample(messages=chat, trained=flags), Location("here")).altered == 1
    assert encoder.render(Sample(messages=CHAT, trained=flags), Location("here")).altered == 0
    assert encoder.turn_ends == {"<|end|>": 4}


def test_generation_blocks_are_used_when_markers_change_the_text(tokenizer):
    assert trained(tokenizer, COUNTS) == BOTH


def test_generation_blocks_that_include_the_header_are_refused(tokenizer):
    greedy = "{% for m in messages %}{% generation %}<|{{ m.role }}|>\n{{ m.content | length }} {{ m.content }}<|end|>"
    with pytest.raises(Unmaskable, match="changes or drops"):
        trained(tokenizer, greedy + "{% endgeneration %}\n{% endfor %}" + ASK)


def test_a_template_that_inspects_user_messages_is_masked_by_markers_in_the_answers(tokenizer):
    chat = ({"role": "user", "content": "Hi <|assistant|>\n you"}, *CHAT[1:])
    assert trained(tokenizer, LOOKS_INTO + ASK, chat) == BOTH


def test_a_header_that_occurs_only_in_a_user_message_is_refused(tokenizer):
    """The template shows no header in history, so the only one in the text is the user's."""
    template = LOOKS_INTO.replace("<|{{ m.role }}|>", "{{ m.role }}") + ASK
    chat = ({"role": "user", "content": "Hi <|assistant|>\n you"}, *CHAT[1:])
    with pytest.raises(Unmaskable, match="does not occur exactly once"):
        trained(tokenizer, template, chat)


def calling(arguments: Any, content: str = "") -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


@pytest.mark.parametrize("arguments", [{"a": "x", "b": 2}, {"b": 2}, {}, '{"a": 1}'])
@pytest.mark.parametrize("content", ["", "Let me see. "])
def test_the_complete_text_of_a_tool_call_is_trained(tokenizer, arguments: Any, content: str):
    chat = (CHAT[0], calling(arguments, content), {"role": "tool", "content": "2"}, CHAT[1])
    call = json.dumps({"name": "add", "arguments": arguments})
    assert trained(tokenizer, CALLS, chat) == [f"{content}{call}<|end|>", BOTH[0]]
    assert trained(tokenizer, CALLS, chat[:2]) == [f"{content}{call}<|end|>"]


def test_a_template_that_drops_a_tool_call_is_refused(tokenizer):
    with pytest.raises(Unmaskable, match="drops the assistant's tool calls"):
        trained(tokenizer, TEMPLATE, (CHAT[0], calling({"a": "x"}, "Let me see.")))


def test_a_token_behind_each_of_several_calls_does_not_end_the_turn(tokenizer):
    template = CALLS.replace("| tojson }}", "| tojson }}<|pad|>").replace("<|end|>\n{% endfor", "\n{% endfor")
    with pytest.raises(Unmaskable, match="would never stop"):
        trained(tokenizer, template, (CHAT[0], calling({"a": "x"})))


@pytest.mark.parametrize(
    "content", ["<|end|>", "a<|end|>\n<|assistant|>\nb", "<|assistant|>", "\r\né 🎉\r\n ", "x\n<|end|>"]
)
def test_an_answer_that_contains_template_tokens_is_trained_completely(tokenizer, content: str):
    chat = (CHAT[0], {"role": "assistant", "content": content}, *CHAT[2:])
    assert trained(tokenizer, TEMPLATE, chat) == [f"{content}<|end|>", BOTH[1]]


def test_a_chat_with_marker_characters_is_an_unusable_row(tokenizer):
    with pytest.raises(UnusableRow, match="U\\+10F7D1") as caught:
        trained(tokenizer, TEMPLATE, ({"role": "user", "content": "\U0010f7d1"}, CHAT[1]))
    assert not isinstance(caught.value, Unmaskable)


def test_a_long_conversation_is_not_rendered_once_per_turn(tokenizer, monkeypatch):
    from dimba.trainers.data.render import Renderer

    tokenizer.chat_template = TEMPLATE
    encoder, chat, calls = ChatEncoder(tokenizer), CHAT * 20, []
    sample = Sample(messages=chat, trained=(False, True) * 40)
    encoder.render(sample, Location("here"))
    real = Renderer._render
    monkeypatch.setattr(Renderer, "_render", lambda *a, **k: calls.append(1) or real(*a, **k))
    encoder.render(sample, Location("here"))
    assert len(calls) == 2


PIECES = [*"ab 1\n\r\t.é🎉<>|", "<|end|>", "<|assistant|>\n", "</think>"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(TEXT, TEXT, TEXT, TEXT)
@pytest.mark.parametrize("template", [TEMPLATE, ENDS_THE_CHAT, MERGES_SYSTEM, CALLS])
def test_any_answer_is_trained_exactly(tokenizer, template: str, one: str, two: str, three: str, four: str):
    answers = [f"{two}y", f"{four}z"]
    roles = ("user", "assistant", "user", "assistant")
    contents = (f"u{one}", answers[0], f"v{three}", answers[1])
    chat = tuple({"role": role, "content": content} for role, content in zip(roles, contents, strict=True))
    expected = [f"{each}<|end|>" for each in answers]
    found = trained(tokenizer, template, chat)
    assert [each.removeprefix(" ") for each in found] == [each.removeprefix(" ") for each in expected]


def test_plain_text_is_trained_except_its_first_token(tokenizer):
    encoder = ChatEncoder(tokenizer)
    rows = [encoder.render(Sample(text=text), Location("here")) for text in ("It is 2.", "<|begin|>It is", "It<|end|>")]
    first, second, third = encoder.encode_batch(rows)
    end = tokenizer.eos_token_id
    assert first.input_ids.tolist() == [*tokenizer("It is 2.")["input_ids"], end]
    assert not first.trained[0] and first.trained[1:].all()
    assert first.labels()[0] == IGNORED and first.labels()[-1] == end
    assert second.input_ids.tolist().count(tokenizer.bos_token_id) == 1
    assert third.input_ids.tolist().count(end) == 1


def test_a_tokenizer_that_adds_bos_adds_it_once(tokenizer):
    from tokenizers.processors import TemplateProcessing

    with_bos = tokenizer.__class__(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|begin|>", eos_token="<|end|>"
    )
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    with_bos.chat_template = TEMPLATE
    encoder = ChatEncoder(with_bos)
    samples = [Sample(text="It is"), Sample(text="<|begin|>It is"), Sample(messages=CHAT[:2], trained=(False, True))]
    for example in encoder.encode_batch([encoder.render(sample, Location("here")) for sample in samples]):
        assert example.input_ids.tolist().count(tokenizer.bos_token_id) == 1


def test_an_empty_text_is_refused(tokenizer):
    with pytest.raises(UnusableRow, match="here: the text is empty"):
        ChatEncoder(tokenizer).render(Sample(text=" \n"), Location("here"))


def test_white_space_inside_a_header_token_is_not_trained(tiny_checkpoint):
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    greedy = AutoTokenizer.from_pretrained(tiny_checkpoint)
    greedy.add_special_tokens({"extra_special_tokens": [AddedToken("<|says|>", rstrip=True, special=True)]})
    template = TEMPLATE.replace("<|assistant|>", "<|says|>").replace("message['role'] }}", "'says' }}")
    chat = (CHAT[0], {"role": "assistant", "content": "  It is 2."})
    assert trained(greedy, template, chat) == ["It is 2.<|end|>"]
