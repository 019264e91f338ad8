"""Prompt examples: every form of question, answer and pair, and the errors for unusable rows."""

import json
from typing import Any

import pytest

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.files import Read, read_rows
from dimba.dataset.pairs import APART, BEST, EMPTY, EQUAL, TIE
from dimba.dataset.prompt_examples import PromptExample, SkippedPair, Tally, first_prompt, prompts_of, survey_prompts
from tests.conftest import SHARED_DATA, write_rows

Q, A, B = (
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "A"},
    {"role": "assistant", "content": "B"},
)
HUMAN, GPT, OTHER = ({"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}, {"from": "gpt", "value": "B"})
SYSTEM = {"role": "system", "content": "S"}
AGAIN = {"role": "user", "content": "And?"}


def at_lines(*rows: dict[str, Any]) -> Read:
    return iter([(Location("rows", n), row) for n, row in enumerate(rows, 1)])


def skipped(found: Any) -> tuple[str, str]:
    assert isinstance(found, SkippedPair), found
    return str(found.where), found.reason


def read(*rows: dict[str, Any], columns: dict[str, str] | None = None) -> list[Any]:
    """The prompt examples, unusable rows and skipped pairs of the rows, in order."""
    _, found = prompts_of(at_lines(*rows), columns or {})
    return [each for _, each in found]


def example(row: dict[str, Any], **columns: str) -> PromptExample:
    [found] = read(row, columns=columns)
    assert isinstance(found, PromptExample), found
    return found


ASKED = {
    "text": ({"prompt": "Q"}, "prompt", (Q,)),
    "turns": ({"prompt": [SYSTEM, Q]}, "prompt", (SYSTEM, Q)),
    "system beside it": ({"question": "Q", "system": "S"}, "question", (SYSTEM, Q)),
    "query": ({"query": "Q", "answer": "A"}, "query/answer", (Q,)),
    "problem": ({"problem": "Q", "solution": "A"}, "problem/solution", (Q,)),
    "instruction": (
        {"instruction": "Do", "input": "this", "output": "A"},
        "instruction/output",
        ({"role": "user", "content": "Do\n\nthis"},),
    ),
    "messages, the last answer is the reference": ({"messages": [Q, A]}, "messages", (Q,)),
    "messages that end with a question": ({"messages": [Q, A, AGAIN]}, "messages", (Q, A, AGAIN)),
    "conversations": ({"conversations": [HUMAN, GPT]}, "conversations", (Q,)),
    "turns that end with an answer": ({"prompt": [Q, A]}, "prompt", (Q,)),
    "a text beside turns": ({"prompt": "Q", "messages": [Q, A]}, "prompt", (Q,)),
    "a text beside plain text": ({"prompt": "Q", "text": "T"}, "prompt", (Q,)),
    "a transcript that asks": ({"prompt": "\n\nHuman: Q\n\nAssistant:", "answer": "1"}, "prompt/answer", (Q,)),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_prompt_is_read_from_every_format(name: str):
    row, form, messages = ASKED[name]
    found, _ = prompts_of(at_lines(row), {})
    assert (found.name, example(row).messages, example(row).row) == (form, messages, row)


@pytest.mark.parametrize(
    ("row", "reference", "checkable"),
    [
        ({"question": "Q", "answer": "So\n#### 72"}, "So\n#### 72", True),
        ({"question": "Q", "answer": 72}, "72", True),
        ({"question": "Q", "answer": 0.5}, "0.5", True),
        ({"question": "Q", "answer": True}, "true", True),
        ({"problem": "Q", "solution": "long", "answer": "7"}, "7", True),
        ({"prompt": "Q", "response": "A"}, "A", False),
        ({"prompt": [Q], "completion": [A]}, "A", False),
        ({"prompt": "Q", "completion": json.dumps([A])}, "A", False),
        ({"messages": [Q, A]}, "A", False),
        ({"messages": [Q, B, A]}, "A", False),
        ({"question": "Q", "answer": 10**400}, str(10**400), True),
        ({"prompt": "Q"}, None, False),
    ],
)
def test_the_reference_is_the_answer_of_the_row(row: dict, reference: str | None, checkable: bool):
    form, _ = prompts_of(at_lines(row), {})
    assert (example(row).reference, form.checkable, form.reference is not None) == (
        reference,
        checkable,
        reference is not None,
    )


def hh(*turns: str) -> str:
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[n % 2]}: {turn}".rstrip() for n, turn in enumerate(turns))


PAIRS = {
    "texts": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "messages": {"prompt": [Q], "chosen": [A], "rejected": [B]},
    "one message each": {"conversations": [HUMAN], "chosen": GPT, "rejected": OTHER},
    "complete chats": {"chosen": [Q, A], "rejected": [Q, B]},
    "complete chats beside the question": {"prompt": "Q", "chosen": [Q, A], "rejected": [Q, B], "score_chosen": 9},
    "transcripts": {"chosen": hh("Q", "A"), "rejected": hh("Q", "B")},
    "transcripts that begin at once": {"chosen": hh("Q", "A")[2:], "rejected": hh("Q", "B")[2:]},
    "a question as a transcript": {"prompt": hh("Q", ""), "chosen": " A", "rejected": " B"},
    "lists as JSON text": {"prompt": "Q", "chosen": json.dumps([A]), "rejected": json.dumps([B])},
    "complete chats as JSON text": {"chosen": json.dumps([Q, A]), "rejected": json.dumps([Q, B])},
    "transcripts with other line ends": {
        "chosen": hh("Q", "A").replace("\n", "\r\n"), "rejected": hh("Q", "B").replace("\n", "\r\n"),
    },
    "a chat that ends with an answer": {"messages": [Q, A], "chosen": "A", "rejected": "B"},
    "an instruction": {"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"},
    "A and B": {
        "orig_instruction": "Q", "orig_response_A": "B", "orig_response_B": "A", "orig_score_A": "2",
        "orig_score_B": 4.5, "orig_preference": "A", "instruction": "…", "output": "…",
    },
    "A and B without scores": {
        "orig_instruction": "Q", "orig_response_A": "A", "orig_response_B": "B", "orig_preference": "A",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_read_from_every_format(name: str):
    found = example(PAIRS[name])
    answers = [each[0]["content"].strip() for each in (found.chosen or (), found.rejected or ())]
    assert (found.messages, answers) == ((Q,), ["A", "B"])


def test_transcripts_may_differ_before_their_last_turn():
    found = example({"chosen": hh("Q", "A", "And?", "B"), "rejected": hh("Q", "B")})
    assert (found.messages, found.chosen, found.rejected) == ((Q,), (A, AGAIN, B), (B,))


@pytest.mark.parametrize(
    "beside", [{"system": "S"}, {"prompt": [SYSTEM, Q]}, {"prompt": "Q", "system": "S"}], ids=", ".join
)
def test_a_system_turn_beside_complete_chats_comes_first(beside: dict):
    assert example({**beside, "chosen": [Q, A], "rejected": [Q, B]}).messages == (SYSTEM, Q)


def test_named_columns_take_precedence():
    row = {"prompt": "no", "text": "Q", "good": "A", "bad": "B"}
    assert example(row, prompt="text", chosen="good", rejected="bad").messages == (Q,)


SCORED = {"orig_instruction": "Q", "orig_criteria": "c"}


def test_scored_responses_are_compared_with_the_best():
    rows = [{**SCORED, "orig_response": text, "orig_score": score} for text, score in (("x", "1"), ("A", 5), ("y", 5))]
    alone = {**SCORED, "orig_instruction": "alone", "orig_response": "z", "orig_score": "3"}
    worse, best, best_again, single = read(*rows, alone)
    assert [turn["content"] for turn in (*worse.chosen, *worse.rejected)] == ["A", "x"]
    assert skipped(best) == ("rows:2", BEST)
    assert (skipped(best_again), skipped(single)) == (("rows:3", TIE), ("rows:4", TIE))


def test_an_instruction_without_a_readable_response_is_reported():
    bad = read({**SCORED, "orig_response": None, "orig_score": "5"})
    assert [each.finding for each in bad] == ["`orig_response` is null, expected text"]


def test_the_prompt_of_a_single_scored_response_is_read():
    row = {**SCORED, "orig_response": "A", "orig_score": "5", "orig_instruction": "Q"}
    assert first_prompt(row, {}, Location("here")).messages == (Q,)


def test_the_sample_of_a_prompt_carries_no_loss(tmp_path: Any):
    row = {"messages": [Q, A, AGAIN, B]}
    summary = survey_prompts(write_rows(tmp_path / "a.jsonl", [row]), {})
    assert summary.first == first_prompt(row, {}, Location("here"))
    assert summary.first and summary.first.trained == (False, False, False)


@pytest.mark.parametrize(
    ("row", "compares"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, True),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "answer": "4"}, False),
        ({"question": "Q", "answer": "4"}, False),
    ],
)
def test_pairs_without_short_answers_need_a_reward_model(tmp_path: Any, row: dict[str, Any], compares: bool):
    assert survey_prompts(write_rows(tmp_path / "a.jsonl", [row]), {}).compares is compares


def test_an_unusable_first_row_is_an_error_with_its_cause():
    with pytest.raises(BadInput, match="here: `prompt` is a number"):
        first_prompt({"prompt": 3}, {}, Location("here"))
    with pytest.raises(BadInput, match=f"here: {EQUAL}"):
        first_prompt({**PAIRS["texts"], "rejected": "A"}, {}, Location("here"))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": " A "}, EQUAL),
        ({"prompt": "Q", "chosen": "A", "rejected": ""}, EMPTY),
        ({"prompt": "Q", "chosen": [], "rejected": "B"}, EMPTY),
        ({"prompt": "Q", "chosen": None, "rejected": "B"}, EMPTY),
        ({"chosen": hh("Q", "A"), "rejected": " "}, EMPTY),
        ({"chosen": [], "rejected": [Q, B]}, EMPTY),
        ({"chosen": [Q, A], "rejected": None}, EMPTY),
        ({**PAIRS["A and B"], "orig_response_A": None}, EMPTY),
        ({"prompt": " ", "chosen": "A", "rejected": "B"}, EMPTY),
        ({"chosen": [Q, A], "rejected": [Q, A]}, EQUAL),
        ({"chosen": [Q, A], "rejected": [Q]}, EMPTY),
        ({"chosen": [Q, A], "rejected": [AGAIN, B]}, APART),
        ({"chosen": [Q, A, AGAIN, A], "rejected": [Q, A, Q, B]}, APART),
        ({"chosen": hh("Q", "A"), "rejected": hh("Q", "")}, EMPTY),
        ({"chosen": hh("Q", "A", "And?", ""), "rejected": hh("Q", "B")}, EMPTY),
        ({"chosen": [Q, A, AGAIN], "rejected": [Q, B]}, EMPTY),
        ({"chosen": hh("Q", "A"), "rejected": hh("And?", "B")}, APART),
        ({**PAIRS["A and B"], "orig_score_A": "3", "orig_score_B": "3.0"}, TIE),
    ],
)
def test_a_pair_that_compares_nothing_is_skipped(row: dict, why: str):
    assert [skipped(each) for each in read(row)] == [("rows:1", why)]


def tally(whys: list[str]) -> Tally:
    made = Tally()
    for line, why in enumerate(whys, 1):
        made.add(SkippedPair(why, Location("a", line)))
    return made


def test_more_than_one_degenerate_pair_in_twenty_is_an_error_and_ties_do_not_count(tmp_path: Any):
    honest, bad = tally([EQUAL] * 5 + [TIE] * 50), tally([EQUAL] * 4 + [EMPTY] * 2)
    assert honest.problem(45) is None
    what, _ = bad.problem(94) or ("", "")
    assert what.startswith("6 of 100 pairs compare nothing") and f"4 times {EQUAL} (first: a:1)" in what
    assert f"2 times {EMPTY} (first: a:5)" in what
    good, same = PAIRS["texts"], {**PAIRS["texts"], "rejected": "A"}
    found = survey_prompts(write_rows(tmp_path / "a.jsonl", [good] * 19 + [same]), {})
    assert (found.rows, found.usable, found.skipped) == (20, 19, 1)
    with pytest.raises(BadInput, match="2 of 20 pairs compare nothing"):
        survey_prompts(write_rows(tmp_path / "b.jsonl", [good] * 18 + [same] * 2), {})


FIRST = {"question": "Q", "answer": "1", "chosen": "A", "rejected": "B"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({**FIRST, "question": None}, "`question` is null"),
        ({**FIRST, "question": 7}, "`question` is a number"),
        ({**FIRST, "answer": None}, "`answer` is null"),
        ({**FIRST, "answer": " "}, "`answer` is blank"),
        ({**FIRST, "answer": ["1"]}, "`answer` is a list"),
        ({**FIRST, "chosen": 3}, "`chosen` is a number"),
        ({**FIRST, "chosen": [Q]}, "`chosen` begins with a turn of the user"),
        ({**FIRST, "chosen": [{"role": "robot", "content": "A"}]}, "no known role"),
        (
            {key: FIRST[key] for key in ("question", "chosen", "rejected")},
            "`answer` is missing, unlike in the first row",
        ),
        (
            {key: FIRST[key] for key in ("question", "answer", "chosen")},
            "`rejected` is missing, unlike in the first row",
        ),
        ({**FIRST, "answer": float("nan")}, "`answer` is not a finite number"),
        ({**FIRST, "chosen": [], "rejected": ["B"]}, "`rejected[0]` is text, expected an object"),
        ({**FIRST, "rejected": [Q, B]}, "`rejected` begins with a turn of the user"),
        ({}, "`question` is missing, unlike in the first row"),
    ],
)
def test_an_unusable_row_has_its_cause(row: dict, why: str):
    _, found = read(FIRST, row)
    assert isinstance(found, UnusableRow) and str(found.location) == "rows:2" and why in found.finding


def test_a_row_with_an_answer_and_a_pair_has_both():
    form, found = prompts_of(at_lines(FIRST), {})
    [(_, both)] = found
    assert (
        isinstance(both, PromptExample)
        and both.reference == "1"
        and both.chosen == (A,)
        and form.pairs
        and form.checkable
    )


@pytest.mark.parametrize("score", ["N/A", "nan", float("inf"), 10**400, True, [3]], ids=lambda score: str(score)[:9])
def test_a_score_is_a_finite_number(score: Any):
    one = {**SCORED, "orig_response": "A", "orig_score": "5"}
    _, found = read(PAIRS["A and B"], {**PAIRS["A and B"], "orig_score_B": score})
    assert isinstance(found, UnusableRow) and found.finding.startswith("`orig_score_B` is ")
    bad = read(one, {**one, "orig_response": "B", "orig_score": 1}, {**one, "orig_score": score})[0]
    assert isinstance(bad, UnusableRow) and str(bad.location) == "rows:3"


@pytest.mark.parametrize(
    "first", [{"prompt": "Q", "chosen": None, "rejected": "B"}, {**PAIRS["A and B"], "orig_response_A": None}]
)
def test_a_null_in_the_first_row_does_not_change_the_format(first: dict):
    empty, found = read(first, {**PAIRS["A and B"], **PAIRS["texts"]})
    assert skipped(empty) == ("rows:1", EMPTY) and isinstance(found, PromptExample) and found.chosen == (A,)


@pytest.mark.parametrize("name", ["answer", "solution", "response"])
def test_a_column_of_answers_may_be_null_in_the_first_row(name: str):
    rows = [{"question": "Q", name: None}, {"question": "Q", name: "7"}]
    form, found = prompts_of(at_lines(*rows), {})
    (_, bad), (_, good) = found
    assert isinstance(bad, UnusableRow) and bad.finding.startswith(f"`{name}` is null") and form.reference == name
    assert isinstance(good, PromptExample) and good.reference == "7"


def test_a_column_of_null_answers_is_no_reference():
    rows = [{"question": "Q", "answer": None, "chosen": "A", "rejected": "B"}] * 3
    form, _ = prompts_of(at_lines(*rows), {})
    assert form.reference is None and all(isinstance(each, PromptExample) for each in read(*rows))


def test_a_response_beside_a_pair_is_no_reference():
    form, _ = prompts_of(at_lines({**PAIRS["texts"], "response": "R"}), {})
    assert form.reference is None and form.name == "prompt/chosen/rejected"


@pytest.mark.parametrize(
    ("bad", "why"),
    [({"response": 3, "prompt": "A"}, "`response` is a number"), ({"response": "Q"}, "`prompt` is missing")],
)
def test_an_error_names_columns_as_the_data_do(bad: dict, why: str):
    _, found = read({"response": "Q", "prompt": "A"}, bad, columns={"prompt": "response", "response": "prompt"})
    assert isinstance(found, UnusableRow) and found.finding.startswith(why)


def test_a_csv_holds_turns_as_json(tmp_path: Any):
    path = tmp_path / "a.csv"
    cells = (json.dumps([turn]).replace('"', '""') for turn in (Q, A, B))
    path.write_text("prompt,chosen,rejected\n" + ",".join(f'"{cell}"' for cell in cells) + "\n")
    [(_, found)] = prompts_of(read_rows(path), {})[1]
    assert isinstance(found, PromptExample) and (found.messages, found.chosen, found.rejected) == ((Q,), (A,), (B,))


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"text": "T"}, {}, "no column of this row asks"),
        ({"chosen": "A"}, {}, "no column of this row asks"),
        ({"prompt": "Q", "question": "Q"}, {}, "`prompt` and `question` could both hold the question"),
        ({"prompt": "Q"}, {"prompt": "ask"}, "no column `ask`"),
        ({"prompt": "Q"}, {"promt": "prompt"}, "`promt` is not a column of a prompt or a pair"),
        ({**SCORED, "orig_response": "A", "orig_score": "5"}, {}, "nothing to compare it with"),
    ],
)
def test_columns_without_one_clear_question_are_an_error(row: dict, columns: dict[str, str], message: str):
    with pytest.raises(BadInput, match=message) as refused:
        read(row, columns=columns)
    assert refused.value.hint


def test_a_chat_that_an_answer_quotes_is_not_split_into_turns():
    found = example({"prompt": "Q", "chosen": "He said:\n\nHuman: hm", "rejected": "B"})
    assert (found.chosen or ())[0]["content"] == "He said:\n\nHuman: hm"


# As in Anthropic's HH-RLHF: chosen, rejected, the number of turns of the question and of each answer (or the reason).
HH = [
    (hh("Q", "A"), hh("Q", "B"), 1, (1, 1)),
    (hh("Q", "A") + " \n", hh("Q", "B") + "  ", 1, (1, 1)),
    (hh("Q ", "A"), hh("Q", "B"), 1, (1, 1)),
    (hh("Q", "A", "And?", "A"), hh("Q", "A", "And?", "B"), 3, (1, 1)),
    (hh("Q", "A", "And?", "A"), hh("Q", "A", "And?", "B", "So?", "C"), 3, (1, 3)),
    (hh("Q", "A", "And?", "A"), hh("Q", "B"), 1, (3, 1)),
    (hh("Q", "A", "And?", "A"), hh("Q", "B", "So?", "C"), 1, (3, 3)),
    (hh("Q", "First\n\nSecond"), hh("Q", "B"), 1, (1, 1)),
    (hh("Q", "1. One\n2. Two\n"), hh("Q", "B"), 1, (1, 1)),
    (hh("Is Human: a word?", "A"), hh("Is Human: a word?", "B"), 1, (1, 1)),
    (hh("Q", "A line\nAssistant: of one paragraph"), hh("Q", "B"), 1, (1, 1)),
    (hh("Q", "A human: in small letters"), hh("Q", "\n\nhuman: B"), 1, (1, 1)),
    ("\n" + hh("Q", "A"), hh("Q", "B"), 1, (1, 1)),
    (hh("Q", "A"), hh("Q", ""), 0, EMPTY),
    (hh("Q", ""), hh("Q", ""), 0, EQUAL),
    (hh("Q", "A", "And?", ""), hh("Q", "A", "And?", "B"), 0, EMPTY),
    (hh("Q", "A", "And?"), hh("Q", "B"), 0, EMPTY),
    (hh("Q", "A"), hh("Q", "A "), 0, EQUAL),
    (hh("Q", "A"), hh("Q", "A", "And?", "B"), 0, EMPTY),
    (hh("Q", "A"), hh("R", "A"), 0, APART),
    (hh("Q", "A", "And?", "A"), hh("Q", "A", "So?", "B"), 0, APART),
]


@pytest.mark.parametrize(("chosen", "rejected", "asked", "outcome"), HH)
def test_transcripts_of_real_conversations_are_read(chosen: str, rejected: str, asked: int, outcome: Any):
    [found] = read({"chosen": chosen, "rejected": rejected})
    if isinstance(outcome, str):
        assert skipped(found) == ("rows:1", outcome)
    else:
        assert (len(found.messages), (len(found.chosen), len(found.rejected))) == (asked, outcome)


REAL = {
    "gsm8k-test-400.jsonl": ("question/answer", 400),
    "preference-en-demo.json": ("conversations/chosen/rejected", 299),
    "presets/preference_collection.jsonl": ("responses A and B", 7),
    "presets/ultrachat_200k.jsonl": ("prompt", 8),
    "presets/openhermes_2_5.jsonl": ("conversations", 8),
    "presets/codefeedback_filtered_instruction.jsonl": ("query/answer", 4),
}


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no shared data here")
@pytest.mark.parametrize("name", REAL)
def test_real_data_give_prompt_examples(name: str):
    form, found = prompts_of(read_rows(SHARED_DATA / name), {})
    assert (form.name, sum(isinstance(each, PromptExample) for _, each in found)) == REAL[name]
