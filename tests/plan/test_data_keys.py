"""Keys of `dataset` that local data do not have are refused, one data set of a list by one."""

from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import SeveralErrors
from dimba.host.facts import DataFacts, HostFacts
from tests.plan.test_plan import FACTS, FLAGS, plan, refusal

ONE_FILE = replace(FACTS, data=replace(FACTS.data, files=(Path(FACTS.data.reference),)))
FOLDER = replace(FACTS, data=replace(FACTS.data, files=(Path("/work/data.jsonl/1.jsonl"),)))
ON_THE_HUB = replace(FACTS, data=DataFacts(reference="owner/rows", local=False))


@pytest.mark.parametrize(
    ("given", "facts", "key", "cause"),
    [
        ("{path: data.jsonl, split: test}", ONE_FILE, "dataset", "/work/data.jsonl: has no split `test`"),
        ("{path: data.jsonl, config: main}", ONE_FILE, "dataset.config", "has no configuration `main`"),
        ("{path: data.jsonl, config: main}", FOLDER, "dataset.config", "has no configuration `main`"),
    ],
)
def test_a_split_and_a_configuration_that_local_data_lack_are_refused(
    given: str, facts: HostFacts, key: str, cause: str
) -> None:
    error = refusal(f"dataset: {given}", facts)
    assert error.key == key and cause in error.cause and error.hint.startswith("remove `dataset.")


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ("{path: data.jsonl, split: train}", ONE_FILE),
        ("{path: data.jsonl, split: test}", FOLDER),  # the look at the files has found it
        ("{name: owner/rows, config: main, split: test}", ON_THE_HUB),
    ],
)
def test_what_the_data_have_is_accepted(given: str, facts: HostFacts) -> None:
    assert plan(f"dataset: {given}", facts)


def test_a_base_that_is_refused_is_named_once_although_it_reads_no_data_either() -> None:
    again = replace(FACTS.data, problem="/work/base brings code of its own", hint="read it", key="base_checkpoint")
    own_code = replace(FACTS.checkpoint, own_code="config.json")
    found = refusal("", replace(FACTS, checkpoint=own_code, data=again))
    assert "contains code of its own" in found.cause  # SeveralErrors has none
    assert "brings code" in refusal("", replace(FACTS, data=again)).cause


def test_a_custom_trainer_gets_what_it_may_understand() -> None:
    own = replace(ONE_FILE, trainer=replace(ONE_FILE.trainer, path=Path("/work/mine.py"), in_image=None))
    argv = plan("dataset: {path: data.jsonl, split: 'train[:10%]'}", own).argv
    assert argv[argv.index("--dataset-split") + 1] == "train[:10%]"


def test_the_refusal_names_the_data_set_of_a_list() -> None:
    sources = tuple(
        replace(FACTS.data, reference=f"/work/{name}", files=(Path(f"/work/{name}"),), key=f"dataset[{number}]")
        for number, name in enumerate(("a.jsonl", "b.jsonl"))
    )
    facts = replace(
        FACTS,
        data=replace(FACTS.data, sources=sources),
        trainer=replace(FACTS.trainer, flags=FLAGS | {"--mixture"}),
    )
    with pytest.raises(SeveralErrors) as refused:
        plan("dataset: [{path: a.jsonl, config: main}, {path: b.jsonl, split: test}]", facts)
    assert [(each.key, each.hint) for each in refused.value.errors] == [
        ("dataset[0].config", "remove `dataset[0].config`"),
        ("dataset[1]", "remove `dataset[1].split`: without it all its rows are read"),
    ]


def test_one_file_has_no_split_to_hold_out() -> None:
    facts = replace(ONE_FILE, trainer=replace(ONE_FILE.trainer, flags=FLAGS | {"--validation-split"}))
    error = refusal("trainer_args: {validation-split: test}", facts)
    assert error.key == "trainer_args.validation-split" and "has no split `test`" in error.cause
    for held_out in ("0.05", "'0.05'", "20"):
        assert plan(f"trainer_args: {{validation-split: {held_out}}}", facts)
    assert "neither a share" in refusal("trainer_args: {validation-split: '1.5'}", facts).cause


def test_a_split_to_hold_out_that_the_preview_refused_is_refused_once() -> None:
    data = replace(ONE_FILE.data, problem="a file has no split `test`", hint="h", key="trainer_args.validation-split")
    facts = replace(ONE_FILE, data=data, trainer=replace(ONE_FILE.trainer, flags=FLAGS | {"--validation-split"}))
    assert refusal("trainer_args: {validation-split: test}", facts).message.count("has no split") == 1
