"""What a remembered report of the data depends on."""

from pathlib import Path

import pytest

from dimba.jobs.data_preview import _code
from dimba.jobs.place import data_place
from dimba.spec import parse_spec
from tests.plan.test_plan import FACTS, SPARSE


@pytest.mark.parametrize("module", ["dataset/files/lines.py", "dataset/formats.py", "trainers/data/masks.py"])
def test_a_changed_module_that_reads_rows_makes_the_data_be_read_again(tmp_path: Path, module: str):
    file = tmp_path / module
    file.parent.mkdir(parents=True)
    file.write_text("before", encoding="utf-8")
    before = _code(tmp_path)
    file.write_text("after it was changed", encoding="utf-8")
    assert before and _code(tmp_path) != before


def test_the_preview_gets_the_token_and_the_proxies_that_the_spec_names_and_no_other_variable(
    monkeypatch: pytest.MonkeyPatch,
):
    named = ("HF_TOKEN", "HTTPS_PROXY", "no_proxy", "LD_PRELOAD")
    for name in (*named, "HTTP_PROXY"):
        monkeypatch.setenv(name, f"value of {name}")
    spec = parse_spec(SPARSE.encode(), source="job.yaml", overrides=[f"container.env=[{', '.join(named)}]"]).spec
    secrets = data_place(spec, FACTS).secrets
    assert secrets == {name: f"value of {name}" for name in named if name != "LD_PRELOAD"}
