"""A list of data sets: each has its own columns, its weight is exact, and its rows are counted one by one."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimba.common.errors import BadInput
from dimba.dataset.token_report import DataReport
from dimba.objectives.dpo import DPO
from dimba.objectives.grpo import GRPO
from dimba.objectives.sft import SFT
from dimba.trainers.data.loading import Data, Pieces, held_out_rows, load_data
from dimba.trainers.data.mixture import weighted
from dimba.trainers.objectives.dpo.pairs import Pairs, load_pairs
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.objectives.grpo.prompts import Prompts
from dimba.trainers.objectives.resuming import trained_with
from tests.conftest import write_rows
from tests.dataset.test_find import saved
from tests.trainers.test_sft import metrics, run

ASKED = [{"question": f"{n} + 1?", "answer": f"{n + 1}"} for n in range(10)]
OTHERS = [{"ask": f"Say {n}.", "reply": f"I say {n}."} for n in range(7)]
COLUMNS = {"prompt": "ask", "response": "reply"}


@pytest.fixture(autouse=True)
def _own_tokens(monkeypatch: pytest.MonkeyPatch, caches: Path) -> Iterator[None]:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
    yield


def sources(*each: dict[str, Any]) -> list[str]:
    return ["--mixture", *map(json.dumps, each)]


@pytest.fixture
def both(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    first = {"path": str(write_rows(tmp_path / "a.jsonl", ASKED))}
    return first, {"path": str(write_rows(tmp_path / "b.jsonl", OTHERS)), "columns": COLUMNS}


def named(base: Path, *flags: str) -> list[str]:
    return ["--base-checkpoint", str(base), "--output-dir", "out", "--max-length", "128", *flags]


def sft(base: Path, *flags: str) -> Data[Pieces]:
    return load_data(SFT.parse(named(base, *flags)), lambda _rows: None)


def rows_of(data: Data[Pieces]) -> Counter[str]:
    return Counter(Path(data.train.store.where(int(row))).name for row, _, _ in data.train.index)


def counts(report: DataReport) -> list[tuple[str, int, int, float, int]]:
    return [(Path(each.name).name, each.rows, each.unusable, each.weight, each.examples) for each in report.sources]


def test_weights_are_exact_and_equal_for_equal_seeds() -> None:
    rows, numbers = np.array([0, 1, 1, 2, 3, 4, 5]), np.array([0, 0, 0, 0, 1, 1, 1])
    assert weighted(rows, numbers, [1, 1], 7).tolist() == list(range(7))
    assert Counter(weighted(rows, numbers, [2, 3], 7).tolist()) == {**dict.fromkeys(range(4), 2), 4: 3, 5: 3, 6: 3}
    found = weighted(rows, numbers, [1 / 3, 1.7], 7)
    times = Counter(found.tolist())
    assert times[1] == times[2] and len({int(rows[n]) for n in times if numbers[n] == 0}) == 1
    assert sum(times[n] for n in (4, 5, 6)) == 5 and all(times[n] in (1, 2) for n in (4, 5, 6))
    assert found.tolist() == weighted(rows, numbers, [1 / 3, 1.7], 7).tolist()
    assert len({tuple(weighted(rows, numbers, [1 / 3, 1.7], seed).tolist()) for seed in range(9)}) > 1
    assert not len(weighted(rows[:0], numbers[:0], [1, 1], 7))


def test_one_and_one_is_the_rows_of_both_one_after_the_other(tiny_checkpoint: Path, both: Any) -> None:
    first, second = both
    data = sft(tiny_checkpoint, *sources(first, second))
    alone = sft(tiny_checkpoint, "--dataset", first["path"])
    pairs = [f"{ours}={theirs}" for ours, theirs in COLUMNS.items()]
    other = sft(tiny_checkpoint, "--dataset", second["path"], "--columns", *pairs)
    store = data.train.store
    assert store.ids.tolist() == [*alone.train.store.ids, *other.train.store.ids]
    assert store.trained.tolist() == [*alone.train.store.trained, *other.train.store.trained]
    assert store.where(9).endswith("a.jsonl:10") and store.where(10).endswith("b.jsonl:1")
    assert counts(data.report) == [("a.jsonl", 10, 0, 1, 10), ("b.jsonl", 7, 0, 1, 7)]
    for whole, part in zip(data.report.sources, (alone.report, other.report), strict=True):
        assert (whole.tokens, whole.trained_tokens) == (part.tokens, part.trained_tokens)
    assert data.report.examples == 17 and not data.report.problem and not alone.report.sources
    again = DataReport.from_json(json.loads(json.dumps(data.report.as_json())))
    assert again.sources == data.report.sources


def test_a_weight_repeats_the_rows_of_an_epoch_and_no_row_held_out(tiny_checkpoint: Path, both: Any) -> None:
    first, second = both
    flags = sources({**first, "weight": 2}, {**second, "weight": 0.5})
    data = sft(tiny_checkpoint, *flags)
    assert rows_of(data)["a.jsonl:1"] == 2
    assert counts(data.report) == [("a.jsonl", 10, 0, 2, 20), ("b.jsonl", 7, 0, 0.5, 4)]
    assert (len(data.train), data.report.examples) == (24, 24)
    assert data.train.index.tolist() == sft(tiny_checkpoint, *flags).train.index.tolist()
    held = sft(tiny_checkpoint, *flags, "--validation-split", "5")
    kept = {int(row) for row, _, _ in held.train.index}
    validated = [int(row) for row, _, _ in held.validation.index]
    assert len(validated) == len(set(validated)) == 5 and not kept & set(validated)
    assert sum(each.examples for each in held.report.sources) == len(held.train)


def test_an_unusable_row_names_its_file(tiny_checkpoint: Path, tmp_path: Path, both: Any) -> None:
    first, _ = both
    bad = {"path": str(write_rows(tmp_path / "c.jsonl", [*ASKED, {"question": "Q"}]))}
    data = sft(tiny_checkpoint, *sources(first, bad))
    assert "c.jsonl:11: `answer` is missing" in data.report.problem
    assert [each.unusable for each in data.report.sources] == [0, 1]
    skipped = sft(tiny_checkpoint, *sources(first, bad), "--skip-bad-rows")
    assert not skipped.report.problem and len(skipped.train) == 20


def test_a_mistake_in_one_source_has_its_key(tiny_checkpoint: Path, both: Any) -> None:
    first, second = both
    for load, objective in ((load_data, SFT), (load_prompts, GRPO)):
        with pytest.raises(BadInput) as raised:
            wrong = sources(first, {**second, "columns": {"prompt": "no"}})
            more = ["--max-completion-length", "8"] if objective is GRPO else []
            load(objective.parse(named(tiny_checkpoint, *wrong, *more)), lambda _rows: None)
        assert raised.value.key == "dataset[1].columns.prompt"


def test_a_source_without_a_row_in_an_epoch_is_refused(tiny_checkpoint: Path, both: Any) -> None:
    first, second = both
    report = sft(tiny_checkpoint, *sources(first, {**second, "weight": 0.01})).report
    assert "dataset[1]" in report.problem and "the weight 0.01" in report.problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ("{}", "needs one of `path` and `name`"),
        ('{"path": "a", "name": "b"}', "needs one of `path` and `name`"),
        ('{"path": "a", "weight": 0}', "needs a weight"),
        ('{"path": "a", "weight": NaN}', "needs a weight"),
        ('{"path": "a", "weight": true}', "needs a weight"),
        ('{"path": "a", "wieght": 1}', "unknown key `wieght`"),
        ('{"path": "a", "columns": {"prompt": 1}}', "not a text"),
    ],
)
def test_a_wrong_mixture_is_refused(text: str, expected: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(BadInput, match=expected):
        sft(tiny_checkpoint, "--mixture", text)


def test_a_trainer_takes_a_data_set_or_a_mixture(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--dataset", "a", "--mixture", '{"path": "a"}']):
        with pytest.raises(SystemExit) as ended:
            sft(tiny_checkpoint, *flags)
        assert ended.value.code == 2 and "give one of --dataset and --mixture" in capsys.readouterr().err
    with pytest.raises(BadInput, match="belong to --dataset"):
        sft(tiny_checkpoint, "--mixture", '{"path": "a"}', "--dataset-split", "test")


def test_pairs_of_several_data_sets_are_mixed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": f"{n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."} for n in range(6)]
    other = [{"ask": f"Why {n}?", "good": f"So {n}.", "poor": f"Not {n}."} for n in range(4)]
    columns = {"prompt": "ask", "chosen": "good", "rejected": "poor"}
    first = {"path": str(write_rows(tmp_path / "a.jsonl", pairs)), "weight": 3}
    second = {"path": str(write_rows(tmp_path / "b.jsonl", other)), "columns": columns, "weight": 1.5}
    data: Data[Pairs] = load_pairs(DPO.parse(named(tiny_checkpoint, *sources(first, second))), lambda _rows: None)
    assert not data.report.problem and len(data.train) == data.report.examples == 18 + 6
    assert counts(data.report) == [("a.jsonl", 6, 0, 3, 18), ("b.jsonl", 4, 0, 1.5, 6)]
    assert Counter(data.train.numbers.tolist())[0] == 3
    assert sum(each.tokens for each in data.report.sources) == data.report.tokens
    flags = named(tiny_checkpoint, *sources(first, second), "--validation-split", "2")
    held: Data[Pairs] = load_pairs(DPO.parse(flags), lambda _rows: None)
    assert len(held.validation) == 2 and not {*held.train.numbers} & {*held.validation.numbers}


def grpo(base: Path, *flags: str) -> Prompts:
    return load_prompts(GRPO.parse(named(base, "--max-completion-length", "8", *flags)), lambda _rows: None)


def test_prompts_of_several_data_sets_are_mixed(tiny_checkpoint: Path, tmp_path: Path, both: Any) -> None:
    first, _ = both
    sums = [{"problem": f"{n} + {n}?", "solution": f"{2 * n}"} for n in range(4)]
    second = {"path": str(write_rows(tmp_path / "sums.jsonl", [*sums, {"problem": "", "solution": "2"}])), "weight": 2}
    found = grpo(tiny_checkpoint, *sources(first, second), "--skip-bad-rows")
    assert [each.name for each in found.rewards] == ["numeric"]
    assert counts(found.report) == [("a.jsonl", 10, 0, 1, 10), ("sums.jsonl", 5, 1, 2, 8)]
    assert len(found.train) == found.report.examples == 18 and not found.report.problem
    assert sum(each.tokens for each in found.report.sources) == found.report.tokens
    held = grpo(tiny_checkpoint, *sources(first, second), "--skip-bad-rows", "--validation-split", "3")
    assert len(held.held_out) == 3 and not {each.ids for each in held.train} & {each.ids for each in held.held_out}


def test_a_reward_needs_its_column_in_every_data_set(tiny_checkpoint: Path, tmp_path: Path, both: Any) -> None:
    first, _ = both
    alone = {"path": str(write_rows(tmp_path / "alone.jsonl", [{"prompt": f"Tell me {n}."} for n in range(4)]))}
    with pytest.raises(BadInput, match="no reward fits rows of the form"):
        grpo(tiny_checkpoint, *sources(first, alone))
    with pytest.raises(BadInput, match="--reward numeric compares with the right answer"):
        grpo(tiny_checkpoint, *sources(first, alone), "--reward", "numeric")
    assert len(grpo(tiny_checkpoint, *sources(first, alone), "--reward", "length:5").train) == 14


def test_a_run_continues_with_the_same_list_alone(tiny_checkpoint: Path, both: Any) -> None:
    first, second = both

    def data(*each: dict[str, Any]) -> Any:
        return trained_with(SFT.parse(named(tiny_checkpoint, *sources(*each))), "sft")["dataset"]

    before = data({**first, "weight": 2}, second)
    assert before == data({**first, "weight": 2}, second) and "a.jsonl × 2" in before["name"]
    others = [({**first, "weight": 3}, second), (second, {**first, "weight": 2}), (first, {**second, "columns": {}})]
    assert before["content"] not in [data(*each)["content"] for each in others]
    write_rows(Path(first["path"]), ASKED[1:])
    assert before["content"] != data({**first, "weight": 2}, second)["content"]


def test_a_list_of_data_sets_trains(tiny_checkpoint: Path, tmp_path: Path, both: Any) -> None:
    first, second = both
    short = ("--batch-size", "2", "--grad-accumulation-steps", "2", "--num-epochs", "1", "--max-length", "128")
    mixture = sources({**first, "weight": 2}, second)
    data, out = [*mixture, *short], tmp_path / "out"
    from tests.trainers import test_sft

    def command(base: Path, _data: Path, folder: Path, *flags: str) -> list[str]:
        return ["python", "script", "--base-checkpoint", str(base), "--output-dir", str(folder), *flags]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_sft, "command", command)
        printed = run(tiny_checkpoint, Path(), out, "--learning-rate", "3e-3", *data)
    assert "weight 2: 20 examples per epoch" in printed and "weight 1: 7 examples per epoch" in printed
    assert "data: data:" not in printed
    assert metrics(out)[-1]["step"] == 7  # 27 rows in steps of four


@pytest.mark.parametrize(
    ("given", "key", "cause"),
    [
        ({"split": "test"}, "dataset[1]", "has no split `test`"),
        ({"config": "main"}, "dataset[1].config", "has no configuration `main`"),
    ],
)
def test_a_trainer_refuses_a_split_or_configuration_that_a_file_lacks(
    tiny_checkpoint: Path, both: Any, given: dict[str, str], key: str, cause: str
) -> None:
    first, second = both
    sft(tiny_checkpoint, "--dataset", first["path"])  # its tokens are cached
    with pytest.raises(BadInput, match=cause):
        sft(tiny_checkpoint, "--dataset", first["path"], *(f"--dataset-{next(iter(given))}", *given.values()))
    with pytest.raises(BadInput, match=cause) as refused:
        sft(tiny_checkpoint, *sources(first, {**second, **given}))
    assert refused.value.key == key


def test_a_saved_data_set_has_no_other_split_to_hold_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "set")
    with pytest.raises(BadInput, match="has no split `test`") as refused:
        sft(tiny_checkpoint, "--dataset", str(folder), "--validation-split", "test")
    assert refused.value.key == "--validation-split" and "a share" in refused.value.hint


def test_the_split_that_is_trained_cannot_be_held_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        write_rows(tmp_path / "parts" / name, ASKED)
    given = ["--dataset", str(tmp_path / "parts"), "--validation-split"]
    assert len(sft(tiny_checkpoint, *given, "test").validation) == len(ASKED)
    for flags in ([*given, "train"], [*given, "test", "--dataset-split", "test"]):
        with pytest.raises(BadInput, match="are those that are trained"):
            sft(tiny_checkpoint, *flags)
    on_the_hub = SFT.parse(named(tiny_checkpoint, "--dataset", "owner/rows", "--validation-split", "train"))
    with pytest.raises(BadInput, match="are those that are trained"):
        held_out_rows(on_the_hub)
    sources_of_hub = named(tiny_checkpoint, "--dataset", "owner/rows", "--validation-split", "test")
    assert held_out_rows(SFT.parse(sources_of_hub)) == (0, "test")
