"""Rewards see reasoning apart from the answer; GRPO's prompts are shown as they are tokenised."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import Location
from dimba.dataset.prompt_examples import PromptExample
from dimba.objectives.grpo import GRPO
from dimba.objectives.rewards import parse_reward
from dimba.trainers.objectives.grpo.preference import PreferenceReward
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.objectives.grpo.prompts import Prompt, Prompts
from dimba.trainers.objectives.grpo.sampled import completions_of, decode, trial_completions
from dimba.trainers.rewards import Completions, make_reward
from dimba.trainers.rewards.reasoning import closing_of, opening_of, split_reasoning
from dimba.trainers.tiny import TEMPLATE
from tests.conftest import write_rows

OPENS = TEMPLATE.replace("<|assistant|>\n{% endif", "<|assistant|>\n<think>\n{% endif")
CLOSES = "<|assistant|>\n{% if not enable_thinking | default(true) %}<think></think>{% endif %}{% endif"
ARGUED = TEMPLATE.replace("<|assistant|>\n{% endif", CLOSES)
COUNTS = TEMPLATE.replace("<|end|>", "{{ message['content'] | length if message['role'] == 'user' }}<|end|>")
FAMILIES = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<Thought>", "</Thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<inner_thoughts>", "</inner_thoughts>"),
    ("<chain-of-thought>", "</chain-of-thought>"),
    ("<cot>", "</cot>"),
    ("<analysis>", "</analysis>"),
    ('<think mode="deep">', "</think>"),
    ("Here is my thought process:", "Here is my response:"),
)


def example(reference: str | None, **more: Any) -> PromptExample:
    return PromptExample(messages=({"role": "user", "content": "Q"},), reference=reference, row={}, plain=True, **more)


def score(reward: str, text: str, reference: str = "7") -> float | None:
    completions = Completions([example(reference)], [Location("a")], [text], [[0]], 100)
    return make_reward(parse_reward(reward))(completions)[0]


@pytest.mark.parametrize(("opened", "closed"), FAMILIES)
def test_the_answer_is_what_stands_behind_the_reasoning(opened: str, closed: str) -> None:
    for reward in ("numeric", "math", "exact_match", "contains"):
        assert score(reward, f"{opened}maybe 6, no, 7") == 0
        assert score(reward, f"{opened}7{closed}I do not know") == 0
        assert score(reward, f"{opened}maybe 6{closed}\n\n7") == 1
        assert score(reward, f"maybe 6{closed}7") == 1  # the prompt opened it
        assert score(reward, "7") == 1
    assert split_reasoning(f"{opened}a{closed} b {opened}c") == ("a b c", "", False)
    assert split_reasoning(f"{opened}a{closed} b {opened}c{closed} d")[1] == "d"
    assert opening_of(f"Q\n{opened}\n") == f"{opened}\n"
    assert opening_of(f"Q {opened}\n{closed}\n") == ""
    assert closing_of(f"{opened}\n") == closed


def test_the_answer_of_harmony_is_in_its_final_channel() -> None:
    thought = "<|channel|>analysis<|message|>maybe 7<|end|><|start|>assistant"
    assert score("numeric", f"{thought}<|channel|>final<|message|>7<|end|>") == 1
    assert score("numeric", f"{thought}<|channel|>final<|message|>8") == 0
    assert score("numeric", thought) == 0
    assert split_reasoning(f"{thought}<|channel|>final<|message|>7")[1] == "7"


def test_a_prompt_that_names_the_channel_is_continued_in_it() -> None:
    for opened in ("<|channel|>analysis<|message|>", "<|channel>thought\n", "<|think|>"):
        assert opening_of(f"Q<|start|>assistant{opened}") == opened
        assert score("numeric", f"{opened}maybe 7") == 0
        assert score("numeric", f"{opened}maybe 6{closing_of(opened)}7") == 1


def test_a_tag_around_all_of_the_answer_is_no_part_of_it() -> None:
    assert score("exact_match", "<reasoning>6</reasoning>\n<answer>\n7\n</answer>") == 1
    assert score("exact_match", "<think>6</think><response>7") == 1
    assert score("exact_match", "<answer>7</answer>", "<answer>7</answer>") == 1
    assert score("numeric", "<answer>7</answer> or 8") == 0
    assert score("regex:<answer>[0-9]</answer>", "<think>6</think><answer>7</answer>") == 1
    assert score("contains:Scotland", "<think>Scotland</think>Wales") == 0


def test_a_solution_in_marks_is_the_answer() -> None:
    text = "<|begin_of_thought|>6<|end_of_thought|>\n<|begin_of_solution|>\n7\n<|end_of_solution|>"
    assert score("exact_match", text) == 1
    assert score("exact_match", "<think>a</think>7", "<think>b</think>7") == 1


def test_patterns_see_the_answer_unless_they_are_about_the_reasoning() -> None:
    assert score(r"regex:^\d$", "<think>so</think> 7") == 1
    assert score("regex:so", "<think>so</think> 7") == 0
    assert score("regex:.*", "<think>so") == 0
    assert score(r"regex:^<think>.+</think>", "<think>so</think> 7") == 1
    assert score(r"regex:(?s)<(think|reasoning)>", "<think>so") == 1
    assert score("contains:so", "<think>so</think> 7") == 0
    assert score("contains:</think>", "<think>so</think> 7") == 1
    assert score("json_valid", '<think>{"a"</think>{"a": 1}') == 1
    assert score("json_valid", '<think>{"a": 1}') == 0


def test_imitation_and_preference_compare_answers() -> None:
    pair = example(None, chosen=({"role": "assistant", "content": "right"},),
                   rejected=({"role": "assistant", "content": "wrong"},))  # fmt: skip
    completions = Completions([pair], [Location("a")], ["<think>wrong?</think>right"], [[0]], 9)
    assert make_reward(parse_reward("similarity"))(completions) == [1.0]
    seen: list[str] = []

    def scorer(chats: Any) -> list[float]:
        seen.extend(chat[-1]["content"] for chat in chats)
        return [0.0] * len(chats)

    PreferenceReward(scorer)(completions)  # type: ignore[arg-type]
    assert seen == ["right", "right"]


def prompts(base: Path, rows: list[dict[str, Any]], *flags: str, template: str = TEMPLATE) -> Prompts:
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    data = write_rows(base.parent / "rows.jsonl", rows)
    named = ["--base-checkpoint", str(base), "--dataset", str(data), "--max-length", "512"]
    return load_prompts(GRPO.parse([*named, "--max-completion-length", "8", *flags]), lambda _rows: None)


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "base")


def test_the_prompt_is_shown_as_it_is_tokenised_and_its_opening_mark_is_put_back(base: Path, tmp_path: Path) -> None:
    found = prompts(base, [{"question": "3 + 4?", "answer": 7}], template=OPENS)
    [shown] = found.report.shown
    asked = "<|begin|><|user|>\n3 + 4?<|end|>\n<|assistant|>\n<think>\n"
    assert "".join(part.text for part in shown.parts) == f"{asked}\nreference: 7"
    assert shown.tokens == len(found.train[0].ids) == found.report.tokens
    ids = found.tokenizer("so</think>7", add_special_tokens=False)["input_ids"]
    completions = completions_of(found.train, [ids], found.tokenizer, 8)
    assert completions.texts == ["<think>\nso</think>7"]
    assert make_reward(parse_reward("numeric"))(completions) == [1.0]
    own = tmp_path / "own.py"
    own.write_text(
        "def check(completions, completion_answers, completion_reasoning, **_):\n"
        "    assert completions == ['<think>\\nso</think>7']\n"
        "    assert (completion_answers, completion_reasoning) == (['7'], ['so'])\n"
        "    return [1.0]\n",
        encoding="utf-8",
    )
    assert make_reward(parse_reward(f"{own}:check"))(completions) == [1.0]
    assert trial_completions(found, 8, 1).splits[0].answer == "7"


def test_special_tokens_that_mark_reasoning_stay_in_the_completion(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"extra_special_tokens": ["[THINK]", "[/THINK]", "<|message|>"]})
    ids = tokenizer("[THINK]a[/THINK]7<|message|><|end|><|pad|>", add_special_tokens=False)["input_ids"]
    assert decode(tokenizer, [Prompt(Location("a"), example("7"), ())], [ids]) == ["[THINK]a[/THINK]7"]


def test_prompts_honour_arguments_tools_the_date_and_words(base: Path) -> None:
    row = {"question": "What is <|end|>?", "answer": "7", "id": 1}
    rows = [{**row, "chat_template_kwargs": {"enable_thinking": False}}, row]
    found = prompts(base, rows, template=ARGUED)
    texts = [found.tokenizer.decode(each.ids) for each in found.train]
    assert [text.endswith("<think></think>") for text in texts] == [True, False]
    assert all(found.tokenizer.convert_ids_to_tokens(each.ids).count("<|end|>") == 1 for each in found.train)
    assert "columns not read: id" in found.report.notes
    assert "control tokens that people wrote in 2 rows (`<|end|>`): they are tokenised as text" in found.report.notes
    job = prompts(base, [row], "--chat-template-kwargs", '{"enable_thinking": false}', template=ARGUED)
    assert found.tokenizer.decode(job.train[0].ids).endswith("<think></think>")
    dated = "{{ strftime_now('%Y') }}{{ tools | length if tools }}" + TEMPLATE
    tools = [{"type": "function", "function": {"name": "f"}}]
    pinned = prompts(base, [{**row, "tools": tools}], "--template-date", "1999-01-01", template=dated)
    assert pinned.tokenizer.decode(pinned.train[0].ids).startswith("19991<|begin|>")
    assert "the chat template shows the date: it is 1999-01-01 00:00 in every row" in pinned.report.notes
    assert "1 rows name tools: the prompts show them, and no call is run" in pinned.report.notes
    refused = prompts(base, [row], template=COUNTS)
    assert "--control-tokens keep" in refused.report.hint
