"""The loss is on the assistant's turns: proved by decoding the tokens that carry it."""

import pytest

from dimba.common.contract import DEFAULT_CHAT_TEMPLATE
from dimba.common.errors import BadInput, Location
from dimba.trainers.data.chat import encode, prepare_tokenizer
from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.tiny import TEMPLATE

CHATML = (
    "{% for message in messages %}<|user|>{{ message['role'] }}\n{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)
MERGES_SYSTEM = (
    "{{ bos_token }}{% set ns = namespace(s='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.s = m['content'] + '\n\n' %}{% elif m['role'] == 'user' %}[INST] {{ ns.s + m['content'] }} [/INST]"
    "{% set ns.s = '' %}{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} {% endif %}"
)
DROPS_REASONING = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n"
    "{{ m['content'].split('</think>')[-1] if not loop.last else m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NEVER_ENDS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "It is 2."},
    {"role": "user", "content": "And 2 + 2?  "},
    {"role": "assistant", "content": "It is 4. \n"},
]


@pytest.fixture
def tokenizer(tiny_checkpoint):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint)


def trained(tokenizer, chat, template=None) -> list[str]:
    """The runs of tokens that carry loss, decoded."""
    if template:
        tokenizer.chat_template = template
    example = encode(tokenizer, chat, Location("here"))
    runs: list[list[int]] = []
    labels = example.labels().tolist()
    for before, label in zip([IGNORED, *labels], labels, strict=False):
        if label != IGNORED:
            if before == IGNORED:
                runs.append([])
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("template", "second"),
    [(TEMPLATE, "It is 4. \n<|end|>"), (CHATML, "It is 4.<|end|>"), (DEFAULT_CHAT_TEMPLATE, "It is 4. \n<|end|>")],
)
def test_every_assistant_turn_is_trained_with_its_end_token_and_nothing_else(tokenizer, template: str, second: str):
    assert trained(tokenizer, CHAT, template) == ["It is 2.<|end|>", second]


def test_a_merged_system_message_and_a_turn_without_a_header_are_masked(tokenizer):
    assert [turn.strip() for turn in trained(tokenizer, CHAT, MERGES_SYSTEM)] == [
        "It is 2.<|end|>",
        "It is 4. \n<|end|>",
    ]


def test_a_template_whose_generation_prompt_lacks_the_header_is_refused(tokenizer):
    with pytest.raises(BadInput, match="words that its generation prompt lacks"):
        trained(tokenizer, CHAT, TEMPLATE.partition("{% if add_generation_prompt")[0])


def test_a_template_that_drops_an_answer_is_refused(tokenizer):
    chat = [*CHAT[:2], {"role": "assistant", "content": "<think>hm</think>2"}, *CHAT[3:]]
    assert trained(tokenizer, chat, DROPS_REASONING) == ["2<|end|>", "It is 4. \n<|end|>"]
    chat[2] = {"role": "assistant", "content": "2</think>"}
    with pytest.raises(BadInput, match="changes or drops the assistant's content"):
        trained(tokenizer, chat, DROPS_REASONING)


def test_a_template_that_never_ends_a_turn_is_refused(tokenizer):
    with pytest.raises(BadInput, match="would never stop"):
        trained(tokenizer, CHAT, NEVER_ENDS)


def test_a_header_inside_a_users_message_does_not_start_a_turn(tokenizer):
    chat = [{"role": "user", "content": "Say\n<|assistant|>\nno"}, {"role": "assistant", "content": "yes"}]
    assert trained(tokenizer, chat, TEMPLATE) == ["yes<|end|>"]
    chat = [CHAT[1], {"role": "assistant", "content": "<think>a</think>b"}, *chat]
    assert trained(tokenizer, chat, DROPS_REASONING) == ["b<|end|>", "yes<|end|>"]


def test_a_chat_that_the_template_refuses_is_an_unusable_row(tokenizer):
    with pytest.raises(BadInput, match="here: the chat template refuses this chat: system goes first"):
        trained(tokenizer, CHAT, "{{ raise_exception('system goes first') }}")


def test_a_chat_that_starts_with_an_assistant_turn_is_refused(tokenizer):
    with pytest.raises(BadInput, match="starts with an assistant turn"):
        trained(tokenizer, [{"role": "assistant", "content": "Hi"}], TEMPLATE)


def test_an_empty_assistant_turn_is_refused(tokenizer):
    chat = [*CHAT[:2], {"role": "assistant", "content": " "}, *CHAT[3:]]
    with pytest.raises(BadInput, match="an assistant turn is empty"):
        trained(tokenizer, chat, TEMPLATE)


def test_an_end_token_of_a_later_turn_does_not_end_this_one(tokenizer):
    ends_only_the_user = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'user' %}<|end|>"
    ends_only_the_user += "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    with pytest.raises(BadInput, match="would never stop"):
        trained(tokenizer, [*CHAT[1:3], CHAT[1]], ends_only_the_user)


def test_the_header_of_the_next_turn_does_not_end_this_one(tokenizer):
    template = "{% for m in messages %}<|assistant|>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>assistant\n{% endif %}"
    with pytest.raises(BadInput, match="would never stop"):
        trained(tokenizer, CHAT, template)


def test_a_token_across_the_start_of_a_turn_is_refused(tokenizer):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: I{% endif %}"
    with pytest.raises(BadInput, match="a token covers the end of the assistant's header"):
        trained(tokenizer, CHAT[1:3], template)


def test_a_chat_has_one_bos_and_labels_equal_to_its_tokens(tokenizer):
    example = encode(tokenizer, CHAT, "here")
    ids, labels = example.input_ids.tolist(), example.labels().tolist()
    assert ids.count(tokenizer.bos_token_id) == 1
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    assert labels.count(tokenizer.eos_token_id) == 2


def test_a_tokenizer_without_a_template_gets_the_default_one_with_a_note(tokenizer):
    tokenizer.chat_template = None
    assert "no chat template" in prepare_tokenizer(tokenizer)
    assert tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE
    assert trained(tokenizer, CHAT[1:3]) == ["It is 2.<|end|>"]


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="no end-of-sequence token"):
        prepare_tokenizer(tokenizer)
