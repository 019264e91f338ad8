"""Rows in training data: every planted one is found, and none is made up."""

import random
import time
from collections.abc import Iterator, Sequence

import pytest

from dimba.common.errors import Location
from dimba.dataset.overlap import COPY, NEAR, OverlapIndex, training_words, words_of
from dimba.dataset.samples import Sample

VOCABULARY = [f"word{number}" for number in range(3000)]


def chat(question: str, answer: str, system: str = "") -> Sample:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    system_turn = [{"role": "system", "content": system}] if system else []
    return Sample(messages=(*system_turn, *turns), trained=(False,) * len(system_turn) + (False, True))


def prose(drawn: random.Random, length: int) -> Sample:
    words = drawn.choices(VOCABULARY, k=length)
    return chat(" ".join(words[: length // 2]) + "?", " ".join(words[length // 2 :]).capitalize() + ".")


def templated(number: int) -> Sample:
    return chat(
        f"Customer {number} asks when parcel {number * 7919} is going to arrive. What do we tell him?",
        f"Parcel {number * 7919} arrives within {number % 23} days, and customer {number} need not do anything.",
    )


def overlaps(rows: Sequence[Sample], training: Sequence[Sample]) -> dict[int, str]:
    index = OverlapIndex({number: words_of(each) for number, each in enumerate(rows)})
    index.compare((str(number), words_of(each)) for number, each in enumerate(training))
    return {number: each.kind for number, each in sorted(index.found.items())}


@pytest.mark.parametrize("kind", ["prose", "template"])
def test_one_planted_row_in_a_hundred_is_found_and_none_is_made_up(kind: str):
    drawn = random.Random(7)
    make = [lambda n: prose(drawn, drawn.choice([10, 30, 120])), templated][kind == "template"]
    rows, training = [make(n) for n in range(1000)], [make(n) for n in range(1000, 6000)]
    assert overlaps(rows, training) == {}
    planted = drawn.sample(range(1000), 10)
    for number in planted:
        training.insert(drawn.randrange(len(training)), rows[number])
    assert overlaps(rows, training) == dict.fromkeys(sorted(planted), COPY)


def test_case_spaces_punctuation_and_system_prompts_make_no_other_row():
    row = chat("What is  the capital of France?", "It is Paris.", system="Be brief.")
    assert overlaps([row], [chat("what is the capital of france", "“It is Paris”")]) == {0: COPY}


def test_numbers_and_signs_do_make_another_row():
    row = chat("What is 3 + 4?", "It is 1.5")
    assert overlaps([row], [chat("What is 3 - 4?", "It is 1.5"), chat("What is 3 + 4?", "It is 15")]) == {}


def test_an_edited_or_embedded_row_is_nearly_a_copy_and_names_the_training_row():
    drawn = random.Random(2)
    rows = [prose(drawn, 40) for _ in range(30)]
    text = rows[3].messages[0]["content"].split()
    edited = chat(" ".join([*text[:8], "changed", *text[9:]]), rows[3].messages[1]["content"])
    longer = chat("Please: " + rows[5].messages[0]["content"], rows[5].messages[1]["content"] + " I hope this helps.")
    training = [prose(drawn, 40) for _ in range(500)]
    index = OverlapIndex({number: words_of(each) for number, each in enumerate(rows)})
    index.compare((str(number), words_of(each)) for number, each in enumerate([*training, edited, longer]))
    assert {number: (each.kind, each.where) for number, each in index.found.items()} == {
        3: (NEAR, "500"),
        5: (NEAR, "501"),
    }
    assert 0.5 <= index.found[3].share < 1


def test_a_row_that_shares_a_sentence_is_none():
    drawn = random.Random(4)
    row, other = prose(drawn, 60), prose(drawn, 60)
    shared = " ".join(row.messages[0]["content"].split()[:15])
    assert overlaps([row], [chat(shared + " " + other.messages[0]["content"], other.messages[1]["content"])]) == {}


def test_a_preamble_that_many_rows_share_is_none():
    preamble = "You are given a table of sales. Read it closely and answer the question below in one short sentence. "
    rows = [chat(f"{preamble}Which shop in town {n} sold most?", f"Shop {n * 31}.") for n in range(20)]
    training = [chat(f"{preamble}Which shop in town {n} sold most?", f"Shop {n * 31}.") for n in range(100, 200)]
    assert overlaps(rows, training) == {}


def test_characters_without_spaces_are_compared_one_by_one():
    row = chat("法国的首都是哪里?请用一句话回答我。", "法国的首都是巴黎。")
    assert overlaps([row], [chat("法国的首都是哪里?请用一句话回答。", "法国的首都是巴黎。")]) == {0: NEAR}
    assert overlaps([row], [chat("德国有多少人口?请告诉我。", "大约八千四百万。")]) == {}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where is it?", "response": "There."},
        {"prompt": "Where is it?", "chosen": "There.", "rejected": "No."},
        {"question": "Where is it?", "answer": "There."},
    ],
)
def test_training_rows_of_every_objective_have_the_words_of_their_answers(row: dict[str, str]):
    def read() -> Iterator[tuple[Location, dict[str, str]]]:
        yield Location("f", 1), row

    [(where, words)] = training_words(read, {})
    assert words == ("where", "is", "it", "there") and str(where) == "f:1"


@pytest.mark.proof
def test_a_hundred_thousand_training_rows_are_compared_in_seconds():
    drawn = random.Random(3)
    rows, training = [prose(drawn, 100) for _ in range(400)], [prose(drawn, 100) for _ in range(10_000)]
    index = OverlapIndex({number: words_of(each) for number, each in enumerate(rows)})
    begun = time.process_time()
    index.compare((str(number), words_of(each)) for number, each in enumerate(training))
    assert time.process_time() - begun < 2, "a tenth of them"
    assert not index.found
