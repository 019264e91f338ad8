"""What a remembered report of the data depends on."""

from pathlib import Path

import pytest

from dimba.jobs.data_preview import _code


@pytest.mark.parametrize("module", ["dataset/files/lines.py", "dataset/formats.py", "trainers/data/masks.py"])
def test_a_changed_module_that_reads_rows_makes_the_data_be_read_again(tmp_path: Path, module: str):
    file = tmp_path / module
    file.parent.mkdir(parents=True)
    file.write_text("before", encoding="utf-8")
    before = _code(tmp_path)
    file.write_text("after it was changed", encoding="utf-8")
    assert before and _code(tmp_path) != before
