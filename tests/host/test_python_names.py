"""The names that a reward's file defines are known without running it, or are not known."""

from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput
from dimba.host.facts import NamedPath
from dimba.host.python_names import names_defined_in
from dimba.plan.files import named_files
from dimba.spec import parse_spec
from tests.plan.test_plan import FACTS, SPARSE


@pytest.mark.parametrize(
    "source",
    [
        "def score(): ...",
        "async def score(): ...",
        "class score: ...",
        "score = lambda **_: [1.0]",
        "from mine import other as score",
        "import score",
        "if True:\n    def score(): ...",
        "for score in (print, len): pass",
        "(score := print)",
    ],
)
def test_a_name_that_is_defined_is_found(tmp_path: Path, source: str):
    (tmp_path / "reward.py").write_text(source, encoding="utf-8")
    assert "score" in (names_defined_in(tmp_path / "reward.py") or ())


@pytest.mark.parametrize(
    "source",
    [
        "from mine import *",
        "globals()['score'] = len",
        "def __getattr__(name): ...",
        "def score(:",
        "exec('x = 1')",
        "\0",
    ],
)
def test_names_that_may_be_made_are_not_known(tmp_path: Path, source: str):
    (tmp_path / "reward.py").write_text(source, encoding="utf-8")
    assert names_defined_in(tmp_path / "reward.py") is None
    assert names_defined_in(tmp_path / "none.py") is None


def test_a_reward_that_its_file_does_not_define_is_refused_at_plan():
    text = SPARSE.replace("mode: sft", "mode: grpo") + "trainer_args: {reward: 'mine.py:score'}\n"
    spec = parse_spec(text.encode(), source="job.yaml").spec
    trainer = FACTS.project / "scripts/finetuning/finetune_grpo.py"
    for names, refused in ((frozenset({"scores"}), True), (frozenset({"score"}), False), (None, False)):
        named = {"mine.py": NamedPath(path=Path("/work/mine.py"), exists=True, why_not_read="", names=names)}
        facts = replace(FACTS, named=named, trainer=replace(FACTS.trainer, path=trainer))
        if not refused:
            assert named_files(spec, facts) == {"mine.py": Path("/work/mine.py")}
            continue
        with pytest.raises(BadInput, match=r"/work/mine\.py has no function `score`") as error:
            named_files(spec, facts)
        assert error.value.hint == "did you mean `scores`?" and error.value.key == "trainer_args.reward"
