"""Reward functions of the user's own, as other projects write them, and all the ways they go wrong."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dimba.common.errors import BadInput, RunFailed
from dimba.objectives.rewards import parse_reward
from dimba.trainers.rewards import Answers, make_rewards, probe
from tests.trainers.test_rewards import task

# TRL's documentation, open-r1, async ones, objects, and some that name only what they use.
STYLES = """
import asyncio, re
from dataclasses import dataclass

def plain_length(completions, **kwargs):
    return [float(len(completion)) for completion in completions]

def plain_regex(completions, ground_truth, **kwargs):
    matches = [re.search(r"\\\\boxed\\{(.*?)\\}", completion) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]

def r1_format(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(r"^<think>.*?</think>", content) else 0.0 for content in contents]

def r1_accuracy(completions: list[list[dict[str, str]]], solution: list[str], **kwargs) -> list:
    return [float(sol in c[0]["content"]) if sol else None for c, sol in zip(completions, solution)]

def r1_tag_count(completions, **kwargs) -> list[float]:
    def count_tags(text: str) -> float:
        return 0.25 * text.count("<think>") + 0.25 * text.count("</think>")
    return [count_tags(completion[0]["content"]) for completion in completions]

async def slow(prompts, completions, **kwargs):
    await asyncio.sleep(0)
    return [1.0] * len(completions)

def logs(completions, log_extra, log_metric, trainer_state, **kwargs):
    log_metric("mean", 1.0)
    log_extra("text", [str(completion) for completion in completions])
    return [1.0 for _ in completions]

def bare(completion_ids):
    return [len(ids) for ids in completion_ids]

@dataclass
class Judge:
    bonus: float
    def __call__(self, completions, ground_truth):
        return tuple(self.bonus for _ in completions)

judge = Judge(0.5)
number = 3
"""
TEXT = r"<think>x</think> \boxed{72}"


def answers(texts: list[str], *, plain: bool = True, **extras: Any) -> Answers:
    rows = [task(plain=plain, row={"ground_truth": "72", "solution": "72", "prompts": "no"}) for _ in texts]
    return Answers(rows, [f"d.jsonl:{n}" for n in range(1, len(texts) + 1)], texts, [[1, 2]] * len(texts), 10, extras)


def reward(tmp_path: Path, code: str, name: str = "f") -> Any:
    path = tmp_path / "mine.py"
    path.write_text(code)
    return make_rewards([parse_reward(f"{path}:{name}")])[0]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("plain_regex", 1),
        *(("r1_format", 1), ("r1_accuracy", 1), ("r1_tag_count", 0.5)),
        *(("slow", 1), ("logs", 1), ("bare", 2), ("judge", 0.5)),
    ],
)
def test_functions_of_other_projects_run_as_they_are(tmp_path: Path, name: str, score: float, plain: bool) -> None:
    function = reward(tmp_path, STYLES, name)
    note = probe(function, answers([TEXT], plain=plain))
    assert function(answers([TEXT, TEXT], plain=plain)) == [score, score]
    other_form = name.startswith("r1" if plain else "plain")
    assert (note is not None) == other_form
    assert function.name == name


def test_trl_loggers_reach_the_function(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    reward(tmp_path, STYLES, "logs")(answers(["a"], log_metric=seen.__setitem__, log_extra=seen.__setitem__))
    assert seen == {"mean": 1.0, "text": ["a"]}


def test_a_function_may_ask_for_the_state_of_the_training(tmp_path: Path) -> None:
    code = "def f(completions, trainer_state): return [trainer_state.global_step / 2] * len(completions)"
    assert reward(tmp_path, code)(answers(["a"], trainer_state=SimpleNamespace(global_step=3))) == [1.5]


@pytest.mark.parametrize(
    ("result", "values"),
    [
        ("[1, None]", [1, None]),
        ("(True, 0.5)", [1, 0.5]),
        ("__import__('numpy').array([1, 2])", [1, 2]),
        ("list(__import__('numpy').float32([1, 2]))", [1, 2]),
        ("__import__('torch').tensor([1.0, 2.0])", [1, 2]),
        ("list(__import__('torch').tensor([1.0, 2.0]))", [1, 2]),
    ],
)
def test_numbers_of_all_kinds_are_fine(tmp_path: Path, result: str, values: list[float | None]) -> None:
    if "torch" in result or "numpy" in result:
        pytest.importorskip("torch" if "torch" in result else "numpy")
    assert reward(tmp_path, f"def f(completions): return {result}")(answers(["a", "b"])) == values


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("[1, 'x']", "d.jsonl:2: the reward `f` gave 'x' (str)"),
        ("[float('nan'), 1]", "d.jsonl:1: the reward `f` gave nan"),
        ("[1, -float('inf')]", "d.jsonl:2: the reward `f` gave -inf"),
        ("[1, 10**999]", "d.jsonl:2: the reward `f` gave inf"),
        ("[1, 1e39]", "d.jsonl:2: the reward `f` gave 1e+39"),
        ("[1]", "gave back 1 values for 2 completions"),
        ("{}", "gave back {} (dict)"),
        ("None", "gave back None (NoneType), no list"),
        ("'12'", "gave back '12' (str)"),
        ("1.0", "gave back 1.0 (float)"),
        ("[1, [2]]", "d.jsonl:2"),
    ],
)
def test_results_are_checked_every_time(tmp_path: Path, result: str, why: str) -> None:
    function = reward(tmp_path, f"def f(completions): return {result}")
    for kind, call in ((RunFailed, function), (BadInput, lambda given: probe(function, given))):
        with pytest.raises(kind) as caught:
            call(answers(["a", "b"]))
        assert why in str(caught.value)


def test_the_row_that_a_function_fails_for_is_named(tmp_path: Path) -> None:
    function = reward(tmp_path, "def f(completions):\n    return [1 / (c != 'b') for c in completions]")
    with pytest.raises(RunFailed) as caught:
        function(answers(["a", "b", "c"]))
    assert "d.jsonl:2: the reward `f` fails: ZeroDivisionError: division by zero" in str(caught.value)
    assert "mine.py:2" in str(caught.value)


def test_one_that_ends_the_process_is_a_failure_too(tmp_path: Path) -> None:
    function = reward(tmp_path, "import sys\ndef f(completions):\n    sys.exit(0)")
    for kind, call in ((RunFailed, function), (BadInput, lambda given: probe(function, given))):
        with pytest.raises(kind, match=r"the reward `f` fails: SystemExit: 0 \(.*mine.py:3\)"):
            call(answers(["a"]))


JUDGE = """
import asyncio
semaphore = asyncio.Semaphore(1)

async def one():
    async with semaphore:
        await asyncio.sleep(0.001)
    return 1.0

async def f(completions):
    return await asyncio.gather(*[one() for _ in completions])
"""


def test_async_rewards_run_on_the_same_loop_every_time(tmp_path: Path) -> None:
    function = reward(tmp_path, JUDGE)
    assert [function(answers(["a", "b"])) for _ in range(2)] == [[1, 1], [1, 1]]


def test_where_no_row_fails_alone_all_are_named(tmp_path: Path) -> None:
    function = reward(tmp_path, "def f(completions):\n    assert len(completions) < 2, 'many'\n    return [1]")
    with pytest.raises(RunFailed, match=r"d.jsonl:1 to d.jsonl:3: the reward `f` fails: AssertionError: many"):
        function(answers(["a", "b", "c"]))


def test_what_works_in_no_form_is_told_once_as_trl_would_call_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"KeyError: 'no'(.|\n)*one list each: ground_truth, solution$"):
        probe(reward(tmp_path, "def f(completions, **columns): return columns['no']"), answers(["a"]))


@pytest.mark.parametrize(
    ("code", "name", "why"),
    [
        (None, "f", "does not exist"),
        ("def f(:", "f", "mine.py:1: no valid Python"),
        ("\nimport not_there_at_all", "f", "mine.py:2: imports `not_there_at_all`"),
        ("import not_there_at_all", "f", "`container.mounts: [/"),
        ("\n\n1 / 0", "f", "mine.py:3: ZeroDivisionError"),
        ("raise SystemExit(3)", "f", "SystemExit: 3"),
        (STYLES, "slwo", "did you mean `slow`"),
        ("", "f", "define it in the file"),
        (STYLES, "number", "is of type int"),
        (STYLES, "Judge", "a class, not an instance"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, code: str | None, name: str, why: str) -> None:
    with pytest.raises(BadInput) as caught:
        if code is None:
            make_rewards([parse_reward(f"{tmp_path}/mine.py:{name}")])
        else:
            reward(tmp_path, code, name)
    assert why in str(caught.value)


def test_functions_of_one_file_share_it_and_files_of_one_name_do_not(tmp_path: Path) -> None:
    code = "import sys\nsys.loads = getattr(sys, 'loads', 0) + 1\ndef f(completions): return [1]\ng = f"
    try:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            first, second = (reward(tmp_path / folder, code, name).function for name in ("f", "g"))
            assert first is second and sys.modules[first.__module__].__file__ == str(tmp_path / folder / "mine.py")
        assert sys.loads == 2  # type: ignore[attr-defined]
    finally:
        del sys.loads  # type: ignore[attr-defined]


def test_what_lies_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside_the_reward.py").write_text("ONE = 1.0")
    code = "from beside_the_reward import ONE\ndef f(completions): return [ONE]"
    assert reward(tmp_path, code)(answers(["a"])) == [1]
