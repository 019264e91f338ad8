"""The names of rewards, the verifiers, and the reward that `auto` chooses."""

import json
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dimba.common.errors import BadInput
from dimba.objectives.rewards import REWARDS, RewardSpec, parse_reward, parse_rewards, reward_label
from dimba.trainers.rewards import Completions, check_reference, choose, expressions, make_reward
from dimba.trainers.rewards.numbers import final_number
from tests.conftest import REPOSITORY

NUMBERS = {
    r"so \boxed{72}": 72,
    r"\boxed{3} or \boxed{4}": 4,
    r"\boxed{\frac{1}{2}} of 9": "1/2",
    r"\boxed{72\text{ apples}}": 72,
    r"\boxed{x = -5}": -5,
    r"$\boxed{5}$ and 6": 5,
    r"\boxed 5": 5,
    r"\boxed{10\%}": "1/10",
    "1 + 1\n#### 72\nQ: 5": 72,
    "#### The\nis 8": 8,
    "1,234.50": "1234.5",
    "$1,234.50": "1234.5",
    r"1{,}234": 1234,
    r"1\,234": 1234,
    r"costs \$5": 5,
    "1,234,567": 1234567,
    "3/4": "3/4",
    "7 / 2": "7/2",
    r"\frac{3}{4}": "3/4",
    r"\dfrac34": "3/4",
    r"-\tfrac{1}{2}": "-1/2",
    "about 1 1/2 cups": "3/2",
    r"1\frac{1}{2}": "3/2",
    "50%": "1/2",
    r"50\%": "1/2",
    "10-3=7": 7,
    "−3": -3,
    "is -3": -3,
    "-$5": -5,
    "1e3": 1000,
    "1.5e-3": "0.0015",
    ".5": "1/2",
    "is 72.": 72,
    "so...72": 72,
    "**72**": 72,
    "72km": 72,
    "72 or x2": 72,
    "5 m^2": 5,
    **{"答案是72。": 72, "答えは72です": 72, "答案是72元": 72, "答案是-5": -5, "答案：７２": 72, "\\boxed{72元。}": 72},
    **{
        r"\cfrac{1}{2}": "1/2",
        r"\frac{1.5}{2}": "3/4",
        r"\frac{3}{-4}": "-3/4",
        r"\dfrac{-3}{-4}": "3/4",
        "3⁄4": "3/4",
    },
    **{"1\u00a0000": 1000, "1\u202f234\u00a0567": 1234567, r"45^\circ": 45, "5 km/h": 5, "$5/hour": 5, "12.5 %": "1/8"},
    **{
        "x = **5**": 5,
        "2 + 3 = 5": 5,
        "so:\n* 5 apples": 5,
        "so:\n- 5 apples": 5,
        "---\n5": 5,
        '{"a": 5}': 5,
        "f(2) = 5": 5,
    },
    **{"#### 72 apples for all of us here\nQ: 5": 72, "3 is 5!": 5, "(5)": 5, "in 2020 100": 100, "1, 2, 3": 3},
}
NO_NUMBERS = [
    *("", "-", "none", "x2", "GPT4", "1e999999999", "1/0", "1.2.3", "9" * 300),
    # Parts of something larger.
    *(
        "1,2,3",
        "0,5",
        "12,5",
        "1.234,50",
        "1 000",
        "12 345 678",
        "1_000",
        "1'234",
        "1’234",
        "10:30",
        "1/2/2024",
        "2024-05-06",
    ),
    *(
        "10-3",
        "10 - 3",
        "10 -3",
        "from 3-5",
        "from 3–5",
        "3 + 4",
        "x + 3",
        "3x4",
        "3 x 4",
        "3 * 4",
        "2**10",
        "x^2+3",
        "- 5",
    ),
    *(
        "2^10",
        "2^{10}",
        "10³",
        "10^{-3}",
        "5²",
        "3½",
        "√2",
        "2π",
        "2x",
        "5 million",
        "5k",
        "5M",
        "5万",
        "-(3/4)",
        "f(2)",
        "x = - 5",
    ),
    *(
        r"1.5 \times 10^3",
        r"3 \cdot 4",
        r"2\sqrt{3}",
        r"\sqrt 2",
        r"\frac{\sqrt{2}}{2}",
        r"{3 \over 4}",
        "(1,2)",
        "[1, 2]",
        "x_{2}",
    ),
    *(r"\boxed{1,2}", r"\boxed{0,5}", r"\boxed{5 million}", r"\boxed{2x}", "#### 0,5", "#### x + 3\nso 4"),
    *(r"\boxed{\sqrt{2}}", r"\boxed{2^{10}}", r"\boxed{\pi}", r"\boxed{(1, 2)}", r"\boxed{}", "72 #### none"),
]


@pytest.mark.parametrize("text", NUMBERS)
def test_the_final_number_of_a_text(text: str) -> None:
    found = final_number(text)
    assert found and found.value == Fraction(NUMBERS[text])


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_texts_without_a_final_number(text: str) -> None:
    assert final_number(text) is None


@pytest.mark.parametrize(
    "piece",
    ["1", "1,", "1/", "1 ", "1.", "-", "$-", "{", "}", r"\boxed{", r"\frac{", r"\frac11", "####", "1e", "{,}", " "],
)
def test_a_long_text_takes_time_linear_in_its_length(piece: str) -> None:
    start = time.process_time()
    for prefix in ("", r"\boxed{", "1 1/"):
        final_number(prefix + piece * (200_000 // len(piece)))
    assert time.process_time() - start < 3


SCORES = [
    ("numeric", "it is 50", "50%", 1),
    ("numeric", "it is 0.5", "50%", 1),
    ("numeric", "it is 5", "50%", 0),
    ("numeric", "50%", "0.5", 1),
    ("numeric", "0.5%", "0.5", 0),
    ("numeric", "\\boxed{0.75}", "so\n#### 3/4", 1),
    ("numeric", "no idea", "4", 0),
    ("exact_match", " Paris\n", "Paris", 1),
    ("exact_match", "72", "6 * 12\n#### 72", 1),
    ("exact_match", "paris", "Paris", 0),
    ("exact_match", "because.\n#### B", "so\n#### B", 1),
    ("exact_match", "because.\n#### C", "so\n#### B", 0),
    ("exact_match", "New  York", "New York", 0),
    ("contains", "It is Paris.", "Paris", 1),
    ("contains", "Parisian", "Paris", 0),
    ("contains", "It is 72.", "72", 1),
    *(("contains", text, "72", 0) for text in ("1720", "72.5", "x72", "3.72", "1,72", "-72")),
    ("contains:C++", "in C++ it is", "", 1),
    ("contains:yes: no", "yes: no", "", 1),
    (r"regex:^\d+$", "12", "", 1),
    (r"regex:^\d+$", "12 ", "", 0),
    *(("json_valid", text, "", 1) for text in ('{"a": [1]}', " 1\n", '```json\n{"a": 1}\n```', "null")),
    *(("json_valid", text, "", 0) for text in ("", "NaN", "[Infinity]", "[1,]", "1 2", "{'a': 1}", "[" * 10**5)),
]


@pytest.mark.parametrize(("spec", "text", "reference", "score"), SCORES)
def test_verifiers_score_completions_against_references(spec: str, text: str, reference: str, score: float) -> None:
    assert scored(spec, text, example(reference=reference)) == score


EQUAL = [
    (r"so \boxed{2\sqrt{2}}.", r"\sqrt{8}"),
    (r"\boxed{2\sqrt3}", r"$\sqrt{12}$"),
    (r"\boxed{(x+1)^2}", "so\n#### x^2+2x+1"),
    (r"The answer is $\frac{1}{\sqrt{2}}$.", r"\boxed{\frac{\sqrt{2}}{2}}"),
    (r"\boxed{2, 1}", r"\{1,2\}"),
    (r"\boxed{[0, 1)}", "[0,1)"),
    (r"\boxed{y = 1 + 2x}", "y=2x+1"),
    (r"\boxed{x=5}", "5"),
    (r"\boxed{3<x}", "x>3"),
    (r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"\boxed{\sqrt{5184}}", "#### 72"),
    (r"\boxed{1\frac{1}{2}}", "1 1/2"),
    ("It is 18 dollars.", "9 * 2\n#### 18"),
    ("50%", "0.5"),
    ("x^2", r"x \cdot x"),
    (r"\boxed{\text{(B)}}", "B"),
]
UNEQUAL = [
    (r"\boxed{2}", r"2\sqrt{3}"),
    (r"it is $2\sqrt{3}$", "2"),
    (r"\boxed{1}", "1 1/2"),
    (r"\boxed{1 1/2}", "1"),
    (r"\boxed{0.333333}", "1/3"),
    (r"\boxed{3.1416}", r"\pi"),
    (r"\boxed{(2,1)}", "(1,2)"),
    (r"\boxed{5 or 6}", "5"),
    (r"\boxed{\sqrt{8}} or \boxed{3}", r"\sqrt{8}"),
    (r"\boxed{7 \bmod 5}", "5"),
    (r"\boxed{\sqrt{", r"\sqrt{8}"),
    ("no idea", "x^2"),
    ("", r"\pi"),
    ("\ud800", r"\pi"),
]


@pytest.mark.parametrize(("text", "reference"), EQUAL)
def test_an_equal_expression_in_another_form_scores_1(text: str, reference: str) -> None:
    assert check_reference(parse_reward("math"), reference) is None
    assert scored("math", text, example(reference=reference)) == 1


@pytest.mark.parametrize(("text", "reference"), UNEQUAL)
def test_a_different_expression_scores_0(text: str, reference: str) -> None:
    assert check_reference(parse_reward("math"), reference) is None
    assert scored("math", text, example(reference=reference)) == 0


@pytest.mark.parametrize("answer", ["9^{9^{9^{9}}}", "((99!)!)!", "{" * 450 + "1" + "}" * 450, "9" * 10**6, "x=" * 400])
def test_an_expression_that_takes_forever_scores_0_in_time(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "_SECONDS", 1)
    start = time.monotonic()
    assert scored("math", rf"\boxed{{{answer}}}", example(reference=r"\sqrt{8}")) == 0
    assert time.monotonic() - start < 8


def test_math_without_its_library_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    expressions._library.cache_clear()
    with pytest.raises(BadInput, match="needs math-verify") as caught:
        check_reference(parse_reward("math"), "72")
    assert f"`pip install math-verify -c {REPOSITORY}/docker/constraints.txt`" in caught.value.hint


@pytest.mark.parametrize(("spec", "tokens", "score"), [("length", 80, 0), ("length", 90, -0.5), ("length:50", 100, -1)])
def test_length_is_never_above_zero(spec: str, tokens: int, score: float) -> None:
    completions = Completions([example()], ["a:1"], ["x"], [[0] * tokens], 100)
    assert make_reward(parse_reward(spec))(completions) == [pytest.approx(score)]


@pytest.mark.parametrize(("text", "score"), [("one two", 1), ("three four", -1), ("one", 1 / 3), ("", 0)])
def test_similarity_is_logged_as_imitation(text: str, score: float) -> None:
    pair = example(chosen=answer("one two"), rejected=answer("three four"))
    assert scored("similarity", text, pair) == pytest.approx(score)
    reward = make_reward(parse_reward("similarity"))
    assert reward.name == "imitation_similarity"
    assert "imitation" in REWARDS["similarity"]
    assert reward_label([reward.name]) == reward_label(["rewards/imitation_similarity/mean"]) == "reward (imitation)"
    assert reward_label(["numeric", "length"]) == "reward"


SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(("text", "score"), [('{"a": 1}', 1), ('{"a": "x"}', 0), ("[]", 0)])
def test_json_is_scored_by_its_schema(tmp_path: Path, text: str, score: float) -> None:
    assert scored(f"json_valid:{schema(tmp_path, json.dumps(SCHEMA))}", text, example()) == score


def test_a_number_that_overflows_multiple_of_does_not_conform(tmp_path: Path) -> None:
    limits = schema(tmp_path, '{"multipleOf": 0.01}')
    assert scored(f"json_valid:{limits}", "1" + "0" * 400, example()) == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("{", "is no JSON"),
        ("[]", "neither an object"),
        ('{"type": "nothing"}', "is no JSON Schema"),
        ('{"pattern": "("}', "is no JSON Schema"),
        ('{"$ref": "http://localhost/x.json"}', "nothing is fetched"),
        ('{"items": {"$ref": "#/$defs/n"}}', "is not defined in this file"),
    ],
)
def test_an_unusable_schema_is_refused(tmp_path: Path, content: str | None, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        make_reward(parse_reward(f"json_valid:{schema(tmp_path, content)}"))


@pytest.mark.parametrize(
    ("spec", "reference", "why"),
    [
        ("numeric", "none", "no number"),
        ("numeric", None, "no reference"),
        ("contains", "#### ", "empty"),
        ("math", "She sells nine eggs a day", "neither a number nor an expression"),
        ("math", "#### ", "neither a number"),
        ("math", None, "no reference"),
        ("math", "72 apples", None),
        ("numeric", "7", None),
        ("contains:x", None, None),
        ("length", None, None),
    ],
)
def test_a_reference_that_a_reward_cannot_use_has_a_reason(spec: str, reference: str | None, why: str | None) -> None:
    found = check_reference(parse_reward(spec), reference)
    assert found is None if why is None else why in (found or "")


UNCLEAR = (r"2\sqrt{3}", "x^2+3", "(1,2)", "about 3 or 4", r"\frac{\sqrt{2}}{2}", "12,5", "#### 3 or 4", r"\boxed{1,2}")


@pytest.mark.parametrize("text", [*UNCLEAR, "72", "so\n#### 1,200", "3 km", r"\boxed{3/4}"])
def test_auto_needs_references_that_are_one_plain_number(text: str) -> None:
    why = check_reference(parse_reward("numeric"), text, clear=True)
    assert why == ("the reference answer is not one plain number" if text in UNCLEAR else None)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("numeric", RewardSpec("numeric")),
        ("math", RewardSpec("math")),
        (r"regex:a:\d", RewardSpec("regex", r"a:\d")),
        ("regex:a.py:f", RewardSpec("regex", "a.py:f")),
        ("regex:foo ", RewardSpec("regex", "foo ")),
        ("length:200", RewardSpec("length", "200")),
        ("json_valid:s.json", RewardSpec("json_valid", "s.json")),
        ("a/b.py:f", RewardSpec("a/b.py:f", file="a/b.py", function="f")),
    ],
)
def test_a_reward_is_parsed_from_its_name_and_parameter(text: str, spec: RewardSpec) -> None:
    assert parse_reward(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("numric", "did you mean `numeric`"),
        ("", "known are"),
        ("rewards.py", "no function"),
        ("rewards.py:", "no function"),
        ("regex", "no pattern"),
        ("regex:(", "not a regular expression"),
        ("length:many", "not a number"),
        ("length:", "has no parameter"),
        ("numeric:3", "takes no parameter"),
    ],
)
def test_a_misspelt_reward_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_reward(text)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["numeric", "length"], ["numeric", "length"]),
        (["regex:a", "regex:b", "contains"], ["regex:a", "regex:b", "contains"]),
        (["x/a.py:f", "b.py:f"], ["a.py:f", "b.py:f"]),
        (["x/a.py:f", "y/a.py:f"], ["x/a.py:f", "y/a.py:f"]),
        (["length", "a.py:length"], ["length", "a.py:length"]),
        (["similarity", "a.py:imitation_similarity"], ["imitation_similarity", "a.py:imitation_similarity"]),
    ],
)
def test_each_of_several_rewards_is_logged_under_a_name_of_its_own(texts: list[str], names: list[str]) -> None:
    specs = parse_rewards(texts)
    assert [spec.logged for spec in specs] == names and [str(spec) for spec in specs] == texts
    builtin = [spec for spec in specs if not spec.file]
    assert [make_reward(spec).name for spec in builtin] == [spec.logged for spec in builtin]


def test_the_same_reward_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="`numeric` is named twice"):
        parse_rewards(["numeric", "length", "numeric"])


@pytest.mark.parametrize(
    ("references", "name"),
    [
        (["so\n#### 1,200"] * 9 + ["x"], "numeric"),
        *((["5"], "numeric"), (["Paris", "Rome"], "exact_match"), (["12,5", "0,5", "3,14"], "exact_match")),
    ],
)
def test_auto_chooses_a_verifier_if_rules_can_check_the_answers(references: list[str], name: str) -> None:
    choice = choose(form(checkable=True, reference="answer"), [example(reference=text) for text in references])
    assert [spec.name for spec in choice.specs] == [name]
    assert choice.reason.startswith(f"{name}, because the `answer` of")


def test_autos_reason_has_the_number_of_rows() -> None:
    choice = choose(form(checkable=True, reference="answer"), [example(reference="#### 1")] * 7473)
    assert choice.reason == "numeric, because the `answer` of 7,473 of 7,473 rows ends in a number"


def test_auto_without_checkable_answers_chooses_pairs_or_refuses() -> None:
    assert choose(form(pairs=True), []).specs[0].name == "preference"
    both = choose(form(pairs=True, checkable=True, reference="answer"), [example(reference="word " * 168)])
    assert both.specs[0].name == "preference" and both.reason.endswith("no rule can check the texts in `answer`")
    with pytest.raises(BadInput, match="a median of 840 characters"):
        choose(form(checkable=True, reference="answer"), [example(reference="word " * 168)])
    with pytest.raises(BadInput, match="no `answer` or `solution`"):
        choose(form(), [])


def scored(spec: str, text: str, one: Any) -> float | None:
    return make_reward(parse_reward(spec))(Completions([one], ["a:1"], [text], [[0]], 100))[0]


def example(**given: Any) -> Any:
    known = {"messages": answer("Q"), "reference": None, "chosen": None, "rejected": None, "row": {}, "plain": True}
    return SimpleNamespace(**known | given)


def answer(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "assistant", "content": text},)


def form(**given: Any) -> Any:
    return SimpleNamespace(**{"name": "chat", "checkable": False, "reference": None, "pairs": False} | given)


def schema(folder: Path, content: str | None) -> Path:
    path = folder / "schema.json"
    if content is not None:
        path.write_text(content)
    return path
