"""Words that people wrote stay words; a row's template arguments, the template's clock and unread columns."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import Location
from dimba.dataset.samples import Sample
from dimba.dataset.token_report import DataReport
from dimba.objectives.dpo import DPO
from dimba.objectives.sft import SFT
from dimba.options.kinds import Date, JsonObject
from dimba.trainers.data import tokenization
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.data.loading import load_data
from dimba.trainers.data.render import TemplateSettings
from dimba.trainers.objectives.dpo.pairs import load_pairs
from dimba.trainers.tiny import TEMPLATE
from tests.conftest import write_rows

THINKS = TEMPLATE.replace(
    "\n{{ message",
    "\n{% if message['role'] == 'assistant' and enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% endif %}{{ message",
).replace("<|assistant|>\n{% endif", "<|assistant|>\n{% if hurry %}<think></think>{% endif %}{% endif")
DATED = "{{ strftime_now('%d %B %Y') }}" + TEMPLATE
COUNTS = TEMPLATE.replace(
    "<|end|>", "{% if message['role'] == 'user' %}{{ message['content'] | length }}{% endif %}<|end|>"
)
Q = {"role": "user", "content": "What is <|end|>?"}
A = {"role": "assistant", "content": "<|end|> closes <|user|> a turn.<|end|>"}
PLAIN = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(tokenization.constants, "HF_HOME", str(folder))
    return folder


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "base")


def encoded(tokenizer: Any, messages: list[dict[str, Any]], **more: Any) -> tuple[list[str], list[str], Any]:
    """(the tokens, the trained ones, the example) of a chat."""
    settings = more.pop("settings", None)
    sample = Sample(messages=tuple(messages), trained=tuple(each["role"] == "assistant" for each in messages), **more)
    encoder = ChatEncoder(tokenizer, settings=settings)
    [example] = encoder.encode_batch([encoder.render(sample, Location("here"))])
    tokens = tokenizer.convert_ids_to_tokens(example.input_ids.tolist())
    return tokens, [each for each, kept in zip(tokens, example.trained, strict=True) if kept], example


def report(base: Path, rows: list[dict[str, Any]], *flags: str, mode: Any = SFT, template: str = "") -> DataReport:
    if template:
        (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    data = write_rows(base.parent / "rows.jsonl", rows)
    options = mode.parse(["--base-checkpoint", str(base), "--dataset", str(data), "--output-dir", "out", *flags])
    load = load_pairs if mode is DPO else load_data
    return load(options, lambda _rows: None).report


def test_control_tokens_that_people_wrote_are_text_in_every_turn(tokenizer: Any) -> None:
    system = {"role": "system", "content": "<|system|>"}
    tokens, trained, example = encoded(tokenizer, [system, Q, A, Q, {**A, "content": "Fine."}])
    control = [each for each in tokens if each in tokenizer.get_added_vocab()]
    assert control == ["<|begin|>", *(f"<|{turn}|>" for turn in ("system", "end", "user", "end", "assistant", "end",
                                                                  "user", "end", "assistant", "end"))]  # fmt: skip
    assert trained.count("<|end|>") == 2
    assert tokenizer.convert_tokens_to_string(trained) == "<|end|> closes <|user|> a turn.<|end|><|end|>Fine.<|end|>"
    assert not example.has_control


def test_the_other_words_keep_their_tokens(tokenizer: Any) -> None:
    with_words, *_ = encoded(tokenizer, [Q, A])
    whole = tokenizer.backend_tokenizer
    whole.encode_special_tokens = True
    try:
        [expected] = whole.encode_batch(["What is <|end|>?"], add_special_tokens=False)
    finally:
        whole.encode_special_tokens = False
    at = with_words.index("<|user|>") + 2
    assert with_words[at : at + len(expected.tokens)] == expected.tokens
    assert encoded(tokenizer, PLAIN)[0] == tokenizer.tokenize(tokenizer.apply_chat_template(PLAIN, tokenize=False))


def test_control_tokens_stay_where_the_job_keeps_them_or_the_template_looks_into_the_words(tokenizer: Any) -> None:
    tokens, _, example = encoded(tokenizer, [Q, *PLAIN[1:]], settings=TemplateSettings(keeps_control_tokens=True))
    assert tokens.count("<|end|>") == 3
    assert example.has_control
    counting = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>", bos_token="<|begin|>")
    counting.chat_template = COUNTS
    assert encoded(counting, [Q, *PLAIN[1:]])[2].has_control


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_words_of_a_metaspace_tokenizer_are_text_too(scheme: str) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<unk>", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<>/|?.:▁\n"]
    vocabulary = {letter: n for n, letter in enumerate(letters)}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    inner.normalizer = normalizers.Replace("~", "a")
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Metaspace()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token=AddedToken("</s>", rstrip=True))
    made.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat = [{"role": "user", "content": "a </s> b"}, {"role": "assistant", "content": "<s> c </s>"}]
    tokens, trained, _ = encoded(made, chat)
    assert (tokens.count("<s>"), tokens.count("</s>"), trained.count("</s>")) == (1, 2, 1)
    same = encoded(made, [{**each, "content": each["content"].replace("s", "t")} for each in chat])[0]
    assert [each.replace("s", "t") for each in tokens if len(each) == 1] == [
        each.replace("s", "t") for each in same if len(each) == 1
    ]


def test_a_vocabulary_that_holds_the_control_token_as_a_word_is_counted_and_refused_beyond_a_share(
    base: Path, tokenizer: Any
) -> None:
    good = {"messages": PLAIN}
    clean = report(base, [{"messages": [Q, A]}, good])
    assert not clean.problem
    told = "control tokens that people wrote in 1 row (`<|end|>`, `<|user|>`): they are tokenised as text"
    assert told in clean.notes
    refused = report(base, [{"messages": [Q, *PLAIN[1:]]}, good], template=COUNTS)
    assert "1 of 2 rows contain control tokens that people wrote (`<|end|>`), and they cannot" in refused.problem
    assert "--control-tokens keep" in refused.hint
    few = report(base, [{"messages": [Q, *PLAIN[1:]]}, *[good] * 150])
    assert not few.problem
    kept = report(base, [{"messages": [Q, *PLAIN[1:]]}, good], "--control-tokens", "keep")
    assert not kept.problem
    assert any("control tokens for the model too" in note for note in kept.notes)
    plain = report(base, [{"text": "One.<|end|>Two."}])
    assert any("in plain text they may be meant" in note for note in plain.notes)


def test_reasoning_and_tool_tags_that_a_tokenizer_calls_special_stay_in_the_assistants_turn(tokenizer: Any) -> None:
    own = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>", bos_token="<|begin|>")
    own.add_special_tokens({"extra_special_tokens": ["<think>", "</think>", "<tool_call>"]})
    own.chat_template = TEMPLATE
    chat = [{"role": "user", "content": "<think>?"}, {"role": "assistant", "content": "<think>1</think><|user|>2"}]
    tokens, *_ = encoded(own, chat)
    assert [each for each in tokens if "think" in each] == ["<think>", "</think>"]
    assert tokens.count("<|user|>") == 1


def test_the_arguments_of_a_row_come_before_those_of_the_job(base: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = THINKS
    on, off = {"enable_thinking": True}, {"enable_thinking": False}
    job = TemplateSettings(arguments=off)
    try:
        trained = {
            name: "".join(encoded(tokenizer, PLAIN, arguments=row, settings=settings)[1])
            for name, row, settings in (("row", off, None), ("job", {}, job), ("both", on, job), ("none", {}, None))
        }
    finally:
        tokenizer.chat_template = TEMPLATE
    assert trained == {"row": "<think></think>A<|end|>", "job": "<think></think>A<|end|>", "both": "A<|end|>",
                       "none": "A<|end|>"}  # fmt: skip
    pair = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    for mode, row in ((SFT, {"messages": PLAIN}), (DPO, pair)):
        rows = [{**row, "chat_template_kwargs": off}, {**row, "chat_template_kwargs": '{"enable_thinking": true}'}, row]
        shown = report(base, rows, mode=mode, template=THINKS).shown
        texts = ["".join(part.text for part in each.parts if part.trained) for each in shown]
        assert sorted(texts) == ["<think></think>A<|end|>", "A<|end|>", "A<|end|>"][: len(texts)]


def test_arguments_that_the_template_does_not_read_or_the_trainer_sets_are_reported(base: Path) -> None:
    rows = [{"messages": PLAIN, "chat_template_kwargs": {"enable_thinking": False}, "documents": [{"text": "t"}]}]
    notes = report(base, rows).notes
    assert "1 rows: the chat template omits arguments in `chat_template_kwargs`" in notes
    assert "1 rows: the chat template omits the documents" in notes
    refused = report(base, [{"messages": PLAIN, "chat_template_kwargs": {"add_generation_prompt": True}}])
    assert "`chat_template_kwargs.add_generation_prompt` is set by the trainer" in refused.problem
    with pytest.raises(Exception, match="is set by the trainer itself"):
        JsonObject(refused=("tools",))('{"tools": []}')
    with pytest.raises(Exception, match="surrogates not allowed"):
        JsonObject()('{"a": ["\\ud800"]}')


def test_columns_that_hold_something_and_are_not_read_are_named(base: Path) -> None:
    rows = [{"messages": PLAIN, "id": 3, "source": "web", "empty": None, "chat_template_kwargs": None, "tools": None}]
    assert "columns not read: id, source" in report(base, rows).notes
    pairs = [{"prompt": "Q", "chosen": "A", "rejected": "B", "score": 0.5, "documents": ["a text"]}]
    assert "columns not read: score, documents" in report(base, pairs, mode=DPO).notes


def test_keys_of_turns_that_hold_something_and_are_not_read_are_named(base: Path) -> None:
    extra = {"train": False, "tool_plan": "p", "reasoning_content": ["r"], "name": "n", "weight": 1, "prefix": None}
    named = "columns not read: messages[].train, messages[].tool_plan, messages[].reasoning_content"
    chat = [PLAIN[0], {**PLAIN[1], **extra}]
    assert named in report(base, [{"messages": PLAIN}, {"messages": chat}]).notes
    assert named in report(base, [{"messages": json.dumps(chat)}]).notes
    pairs = [{"prompt": "Q", "chosen": [{**PLAIN[1], "loss": True}], "rejected": "B"}]
    assert "columns not read: chosen[].loss" in report(base, pairs, mode=DPO).notes


def test_control_tokens_in_names_keys_and_ids_are_text_too(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{{ m.name }}{{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    call = {"id": "<|end|>", "type": "<|end|>", "function": {"name": "<|end|>", "arguments": {"<|end|>": "<|end|>"}}}
    chat = [{**Q, "name": "<|end|>"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    tokens, trained, _ = encoded(tokenizer, chat, tools=({"<|user|>": "<|user|>"},))
    control = [each for each in tokens if each in tokenizer.get_added_vocab()]
    assert control == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]
    assert trained[-1] == "<|end|>" and len(trained) > 20


def test_a_template_that_asks_for_the_date_is_reported_and_pinned(base: Path) -> None:
    rows = [{"messages": PLAIN}]
    asked = report(base, rows, template=DATED)
    assert any("the chat template shows the date" in note and "--template-date" in note for note in asked.notes)
    pinned = report(base, rows, "--template-date", "2020-02-29")
    assert "29 February 2020" in pinned.shown[0].parts[0].text
    assert "the chat template shows the date: it is 2020-02-29 00:00 in every row" in pinned.notes
    assert "01 March 2020" in report(base, rows, "--template-date", "2020-03-01").shown[0].parts[0].text
    assert not any("date" in note for note in report(base, rows, template=TEMPLATE).notes)
    assert Date()("2020-02-29T12:30") == "2020-02-29T12:30:00"
    with pytest.raises(Exception, match="is not a date"):
        Date()("29.2.2020")
