"""Users' reward functions, written as in other projects, and their failures."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dimba.common.errors import BadInput, RunFailed
from dimba.objectives.rewards import parse_reward
from dimba.trainers.rewards import Completions, make_reward, probe
from tests.trainers.test_rewards import example

# From TRL's documentation and open-r1; async functions, objects, and functions without **kwargs.
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


def completions(texts: list[str], *, plain: bool = True, **extras: Any) -> Completions:
    rows = [example(plain=plain, row={"ground_truth": "72", "solution": "72", "prompts": "no"}) for _ in texts]
    return Completions(
        rows, [f"d.jsonl:{n}" for n in range(1, len(texts) + 1)], texts, [[1, 2]] * len(texts), 10, extras
    )


def reward(tmp_path: Path, code: str, name: str = "f") -> Any:
    path = tmp_path / "mine.py"
    path.write_text(code)
    return make_reward(parse_reward(f"{path}:{name}"))


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("plain_regex", 1),
        *(("r1_format", 1), ("r1_accuracy", 1), ("r1_tag_count", 0.5)),
        *(("slow", 1), ("logs", 1), ("bare", 2), ("judge", 0.5)),
    ],
)
def test_functions_of_other_projects_run_unchanged(tmp_path: Path, name: str, score: float, plain: bool) -> None:
    function = reward(tmp_path, STYLES, name)
    note = probe(function, completions([TEXT], plain=plain))
    assert function(completions([TEXT, TEXT], plain=plain)) == [score, score]
    other_form = name.startswith("r1" if plain else "plain")
    assert (note is not None) == other_form
    assert function.name == name


def test_a_function_gets_trls_loggers(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    reward(tmp_path, STYLES, "logs")(completions(["a"], log_metric=seen.__setitem__, log_extra=seen.__setitem__))
    assert seen == {"mean": 1.0, "text": ["a"]}


def test_a_function_gets_the_trainer_state(tmp_path: Path) -> None:
    code = "def f(completions, trainer_state): return [trainer_state.global_step / 2] * len(completions)"
    assert reward(tmp_path, code)(completions(["a"], trainer_state=SimpleNamespace(global_step=3))) == [1.5]


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
def test_numbers_of_python_numpy_and_torch_are_scores(tmp_path: Path, result: str, values: list[float | None]) -> None:
    if "torch" in result or "numpy" in result:
        pytest.importorskip("torch" if "torch" in result else "numpy")
    assert reward(tmp_path, f"def f(completions): return {result}")(completions(["a", "b"])) == values


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("[1, 'x']", "d.jsonl:2: the reward `f` returned 'x' (str)"),
        ("[float('nan'), 1]", "d.jsonl:1: the reward `f` returned nan"),
        ("[1, -float('inf')]", "d.jsonl:2: the reward `f` returned -inf"),
        ("[1, 10**999]", "d.jsonl:2: the reward `f` returned inf"),
        ("[1, 1e39]", "d.jsonl:2: the reward `f` returned 1e+39"),
        ("[1]", "returned 1 values for 2 completions"),
        ("{}", "returned {} (dict)"),
        ("None", "returned None (NoneType), which is no list"),
        ("'12'", "returned '12' (str)"),
        ("1.0", "returned 1.0 (float)"),
        ("[1, [2]]", "d.jsonl:2"),
    ],
)
def test_a_result_that_is_not_a_list_of_scores_is_an_error_before_and_while_training(
    tmp_path: Path, result: str, why: str
) -> None:
    function = reward(tmp_path, f"def f(completions): return {result}")
    for kind, call in ((RunFailed, function), (BadInput, lambda given: probe(function, given))):
        with pytest.raises(kind) as caught:
            call(completions(["a", "b"]))
        assert why in str(caught.value)


def test_an_error_names_the_row_for_which_the_function_fails(tmp_path: Path) -> None:
    function = reward(tmp_path, "def f(completions):\n    return [1 / (c != 'b') for c in completions]")
    with pytest.raises(RunFailed) as caught:
        function(completions(["a", "b", "c"]))
    assert "d.jsonl:2: the reward `f` fails: ZeroDivisionError: division by zero" in str(caught.value)
    assert "mine.py:2" in str(caught.value)


def test_a_function_that_exits_the_process_is_an_error(tmp_path: Path) -> None:
    function = reward(tmp_path, "import sys\ndef f(completions):\n    sys.exit(0)")
    for kind, call in ((RunFailed, function), (BadInput, lambda given: probe(function, given))):
        with pytest.raises(kind, match=r"the reward `f` fails: SystemExit: 0 \(.*mine.py:3\)"):
            call(completions(["a"]))


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


def test_async_rewards_share_one_event_loop(tmp_path: Path) -> None:
    function = reward(tmp_path, JUDGE)
    assert [function(completions(["a", "b"])) for _ in range(2)] == [[1, 1], [1, 1]]


def test_an_error_names_all_rows_if_no_row_fails_alone(tmp_path: Path) -> None:
    function = reward(tmp_path, "def f(completions):\n    assert len(completions) < 2, 'many'\n    return [1]")
    with pytest.raises(RunFailed, match=r"d.jsonl:1 to d.jsonl:3: the reward `f` fails: AssertionError: many"):
        function(completions(["a", "b", "c"]))


def test_a_function_that_fails_in_both_forms_is_refused_with_the_error_of_the_first(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"KeyError: 'no'(.|\n)*one list each: ground_truth, solution$"):
        probe(reward(tmp_path, "def f(completions, **columns): return columns['no']"), completions(["a"]))


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
def test_an_unusable_file_is_refused_with_the_line(tmp_path: Path, code: str | None, name: str, why: str) -> None:
    with pytest.raises(BadInput) as caught:
        if code is None:
            make_reward(parse_reward(f"{tmp_path}/mine.py:{name}"))
        else:
            reward(tmp_path, code, name)
    assert why in str(caught.value)


def test_functions_of_a_file_share_one_module_and_files_of_the_same_name_do_not(tmp_path: Path) -> None:
    code = "import sys\nsys.loads = getattr(sys, 'loads', 0) + 1\ndef f(completions): return [1]\ng = f"
    try:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            first, second = (reward(tmp_path / folder, code, name).function for name in ("f", "g"))
            assert first is second and sys.modules[first.__module__].__file__ == str(tmp_path / folder / "mine.py")
        assert sys.loads == 2  # type: ignore[attr-defined]
    finally:
        del sys.loads  # type: ignore[attr-defined]


def test_a_reward_file_can_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "beside_the_reward.py").write_text("ONE = 1.0")
    code = "from beside_the_reward import ONE\ndef f(completions): return [ONE]"
    assert reward(tmp_path, code)(completions(["a"])) == [1]
