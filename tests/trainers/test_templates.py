"""Every chat template that ships with TRL, masked and decoded: exactly the assistant's turns carry loss.

Each message is made of random words that occur once, so the tests need not know how masking works: the decoded tokens
must contain the words of the trained turns and no words of other messages.
"""

import json
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import UnusableRow
from dimba.dataset.formats import Sample
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.data.render import Unmaskable

LITERALS = re.compile(r"<\|[\w ]+\|?>|<[\w]+\|>|<｜[^｜<>]+｜>|<(?:start|end)_of_\w+>|\[/?INST\]")
KEY = {"type": "object", "properties": {"key": {"type": "string", "description": "What."}}, "required": ["key"]}
TOOLS = ({"type": "function", "function": {"name": "look", "description": "Looks up.", "parameters": KEY}},)
HEADER_WORDS = {"user", "assistant", "system", "model", "human", "tool", "ipython"}

NO_CALLS = """cohere cohere2 cohere2_training cohere_training deepseek_r1_distill deepseek_r1_distill_training gemma
    gemma3 gemma3_training gemma_training idefics3 idefics3_training lfm2 lfm2_training llama3 llama3_training
    llava_next llava_next_training phi3 phi3_5 phi3_5_training phi3_training qwen2_5_vl qwen2_5_vl_training smolvlm
    smolvlm_training""".split()
# Its turns have no end token (the next header ends them); its twin with generation blocks is masked by these.
NEVER_ENDS = ["glm4moe"]
# The templates that refuse each kind of conversation; they mask every other kind.
REFUSED = {
    "system": ["gemma", "gemma_training"],  # they raise
    "calls": NO_CALLS,  # they show no tool calls
    "tools": [*NO_CALLS, "diffusion_gemma", "diffusion_gemma_training"],  # their generation prompt lacks the header
    "twice": [
        *["cohere", "cohere2", "cohere2_training", "cohere_training"],  # they raise, as the next four
        *["gemma", "gemma3", "gemma3_training", "gemma_training"],
        *["diffusion_gemma", "diffusion_gemma_training"],  # they run the two turns together, as the next four
        *["gemma4", "gemma4_v3", "gemma4_v4", "gemma4_v5"],
    ],
}


@cache
def templates() -> dict[str, str]:
    import trl

    return {path.stem: path.read_text() for path in sorted(Path(trl.__file__).parent.glob("chat_templates/*.jinja"))}


@cache
def tokenizer_for(source: str, style: str = "bytes") -> Any:
    """A tokenizer of a small vocabulary that knows the template's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>", "<unk>", *sorted(set(LITERALS.findall(source)))]
    words = [word() for _ in range(20)] + ["assistant", "user", "system", "It is", " the "]
    if style == "bytes":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    else:
        inner = Tokenizer(models.Unigram())
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if style == "first" else "always")
        inner.decoder = decoders.Metaspace()
        letters = [chr(code) for code in range(9, 127)]
        trainer = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=special, unk_token="<unk>", initial_alphabet=letters
        )
    inner.train_from_iterator(words, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    made.add_special_tokens({"additional_special_tokens": special[4:]})
    made.chat_template = source
    return made


_random = random.Random(7)


def word() -> str:
    return "".join(_random.choice("bcdfgklmnprstvz") + _random.choice("aeiou") for _ in range(4))


def words(count: int = 3) -> str:
    return " ".join(word() for _ in range(count))


def turn(role: str, content: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": words() if content is None else content, **more}


def call(name: str = "") -> dict[str, Any]:
    values: dict[str, str] = {"key": words()}
    # That family concatenates the arguments as text.
    function = {"name": "look", "arguments": json.dumps(values) if name.startswith("deepseek") else values}
    return turn("assistant", "", tool_calls=[{"type": "function", "id": "abcdefghi", "function": function}])


@dataclass(frozen=True)
class Conversation:
    name: str
    messages: tuple[dict[str, Any], ...]
    tools: Any = None


def conversations(name: str = "") -> list[Conversation]:
    ask, say = (lambda: turn("user")), (lambda: turn("assistant"))
    fake = "<|im_end|>\n<|im_start|>assistant\n<|assistant|>\n<start_of_turn>model\n[/INST]</s>"
    thought = f"<think>\n{words()}\n</think>\n\n"
    return [
        Conversation("single", (ask(), say())),
        Conversation("several", (ask(), say(), ask(), say(), ask(), say())),
        Conversation("system", (turn("system"), ask(), say(), ask(), say())),
        Conversation("spaces", (turn("user", f" {words()}\n"), turn("assistant", f"\n  {words()} \n\n"), ask(), say())),
        Conversation("header in a question", (turn("user", f"{words()} {fake} {words()}"), say(), ask(), say())),
        Conversation("header in an answer", (ask(), turn("assistant", f"{words()} {fake} {words()}"), ask(), say())),
        Conversation("thought", (ask(), turn("assistant", thought + words()))),
        Conversation("thought before", (ask(), turn("assistant", thought + words()), ask(), say())),
        Conversation("unicode", (turn("user", f"日本語 🎉 {words()}"), turn("assistant", f"é🎉\r\n{words()} ñ"))),
        Conversation("ends asking", (ask(), say(), ask())),
        Conversation("tools", (ask(), call(name), turn("tool", name="look"), say()), TOOLS),
        Conversation("calls", (ask(), call(name)), TOOLS),
        Conversation("twice", (ask(), say(), say())),
    ]


def words_of(message: dict[str, Any], *, without_thought: bool = False) -> set[str]:
    content = message["content"].rpartition("</think>")[2] if without_thought else message["content"]
    called = "".join(str(each["function"]["arguments"]) for each in message.get("tool_calls", ()))
    return set(re.findall(r"[a-z]{8}", f"{content} {called}"))


def runs(example: Any) -> list[tuple[int, int]]:
    edges = [at for at in range(1, len(example.trained)) if example.trained[at] != example.trained[at - 1]]
    edges += [len(example.trained)] if example.trained[-1] else []
    return list(zip(edges[::2], edges[1::2], strict=True))


def outcome(tokenizer: Any, talk: Conversation) -> str:
    """`masked` after the proof, or the reason of the refusal."""
    trained = tuple(message["role"] == "assistant" for message in talk.messages)
    encoder = ChatEncoder(tokenizer)
    try:
        rendered = encoder.render(Sample(messages=talk.messages, trained=trained, tools=talk.tools), talk.name)
        [example] = encoder.encode_batch([rendered])
        if isinstance(example, Unmaskable):
            raise example
    except UnusableRow as error:
        return error.message.partition(": ")[2]
    prove(tokenizer, talk, rendered, example)
    return "masked"


def prove(tokenizer: Any, talk: Conversation, rendered: Any, example: Any) -> None:
    if not rendered.control:
        assert tokenizer(rendered.text, add_special_tokens=False)["input_ids"] == example.input_ids.tolist()
    found = runs(example)
    turns = [message for message in talk.messages if message["role"] == "assistant"]
    assert len(found) == len(turns)
    decoded = [tokenizer.decode(example.input_ids[first:last]) for first, last in found]
    for text, message in zip(decoded, turns, strict=True):
        there = set(re.findall(r"[a-z]{8}", text))
        missing = words_of(message) - there
        assert not missing & words_of(message, without_thought=True), text
        assert not missing or rendered.altered
        others = [each for each in talk.messages if each is not message]
        assert not any(words_of(other) & there for other in others), text
    check_borders(tokenizer, talk, example, found)


def check_borders(tokenizer: Any, talk: Conversation, example: Any, found: list[tuple[int, int]]) -> None:
    special = set(tokenizer.all_special_ids)
    turns = [at for at, message in enumerate(talk.messages) if message["role"] == "assistant"]
    for (first, last), at in zip(found, turns, strict=True):
        assert example.input_ids[last - 1] in special
        opened = tokenizer.decode(example.input_ids[first : first + 4]).split()
        assert not opened or opened[0].lower() not in HEADER_WORDS, opened
        asked = prompt_ids(tokenizer, talk, at)
        if asked and example.input_ids[: len(asked)].tolist() == asked:
            assert first == len(asked)


def prompt_ids(tokenizer: Any, talk: Conversation, at: int) -> list[int] | None:
    """The tokens of the prompt for this turn; None for a template that needs contents in parts."""
    try:
        return tokenizer.apply_chat_template(
            list(talk.messages[:at]), add_generation_prompt=True, tools=talk.tools, return_dict=False
        )
    except Exception:
        return None


@pytest.mark.parametrize("name", sorted(templates()))
def test_exactly_the_assistants_turns_carry_loss(name: str):
    tokenizer = tokenizer_for(templates()[name])
    outcomes = {talk.name: outcome(tokenizer, talk) for talk in conversations(name)}
    refused = {talk: why for talk, why in outcomes.items() if why != "masked"}
    if name in NEVER_ENDS:
        assert set(refused) == set(outcomes)
        assert all("would never stop" in why for why in refused.values())
    else:
        assert sorted(refused) == sorted(talk for talk, names in REFUSED.items() if name in names), refused


@pytest.mark.parametrize("style", ["first", "always"])
@pytest.mark.parametrize(
    "name", ["llama3_1", "qwen3", "gptoss", "deepseek_r1_distill", "llava_next", "phi3", "smolvlm"]
)
def test_tokenizers_with_leading_spaces_mask_the_same_turns(name: str, style: str):
    tokenizer = tokenizer_for(templates()[name], style)
    for talk in conversations(name):
        if name not in REFUSED.get(talk.name, ()):
            assert outcome(tokenizer, talk) == "masked"
