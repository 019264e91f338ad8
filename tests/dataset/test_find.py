"""A folder, a pattern and a folder of `save_to_disk` are read file by file, in a settled order."""

import json
import re
from pathlib import Path

import pytest

from dimba.common.errors import BadInput, UnusableRow
from dimba.dataset.files import find_files, read_rows
from dimba.dataset.local import require_local_keys
from tests.conftest import QUESTIONS, write_rows


def names(place: Path, split: str | None = None) -> list[str]:
    return [each.name for each in find_files(place, split).files]


def shards(folder: Path, *files: str) -> Path:
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_rows(folder / name, [{**QUESTIONS[0], "question": f"row of file {number}"}])
    return folder


def test_the_files_of_a_folder_are_read_in_natural_order(tmp_path: Path):
    folder = shards(tmp_path, "part-10.jsonl", "part-2.jsonl", "b/part-1.jsonl", "a/part-3.jsonl")
    assert names(folder) == ["part-3.jsonl", "part-1.jsonl", "part-2.jsonl", "part-10.jsonl"]


def test_rows_of_a_folder_have_the_file_and_line_that_they_stand_on(tmp_path: Path):
    folder = shards(tmp_path, "part-1.jsonl", "part-2.jsonl")
    with (folder / "part-2.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    found = list(read_rows(folder))
    assert [str(where) for where, _ in found] == [
        f"{folder}/part-{n}.jsonl:{line}" for n, line in ((1, 1), (2, 1), (2, 2))
    ]
    assert isinstance(found[-1][1], UnusableRow)


def test_files_beside_the_rows_are_left_out_and_listed(tmp_path: Path):
    folder = shards(tmp_path, "part-1.jsonl", ".git/objects.jsonl", "_tmp/x.jsonl")
    for name in ("README.md", "README.txt", "LICENSE.txt", "dataset_infos.json", "_SUCCESS", ".DS_Store"):
        (folder / name).write_text("{}", encoding="utf-8")
    (folder / "part-2.jsonl").touch()
    found = find_files(folder)
    assert [each.name for each in found.files] == ["part-1.jsonl"]
    assert found.notes == (
        "not read, as no file of rows: LICENSE.txt, README.md, README.txt, dataset_infos.json",
        "not read, as empty: part-2.jsonl",
    )


def test_files_of_several_kinds_are_refused_with_a_pattern_to_choose(tmp_path: Path):
    folder = shards(tmp_path, "a.jsonl", "b.csv")
    with pytest.raises(BadInput, match=r"several kinds: \.jsonl, \.csv") as refused:
        find_files(folder)
    assert f"{folder}/**/*.jsonl" in refused.value.hint
    assert names(Path(f"{folder}/**/*.jsonl")) == ["a.jsonl"]


def test_compressed_and_plain_shards_are_of_one_kind(tmp_path: Path):
    assert names(shards(tmp_path, "a.jsonl", "b.jsonl.gz")) == ["a.jsonl", "b.jsonl.gz"]


@pytest.mark.parametrize(
    ("split", "expected"), [(None, "train.jsonl"), ("test", "qa.test.v2.jsonl"), ("validation", "dev.jsonl")]
)
def test_the_split_chooses_files_by_their_names_and_never_trains_on_the_test(tmp_path: Path, split: str, expected: str):
    folder = shards(tmp_path, "train.jsonl", "qa.test.v2.jsonl", "dev.jsonl")
    assert names(folder, split) == [expected]
    assert any("of the split" in note for note in find_files(folder, split).notes)


def test_a_split_that_no_file_has_is_refused_with_those_that_exist(tmp_path: Path):
    with pytest.raises(BadInput, match="has no split `dev`") as refused:
        find_files(shards(tmp_path, "train.jsonl", "test.jsonl"), "dev")
    assert "test, train" in refused.value.hint


@pytest.mark.parametrize("folder", ["data [v2]", "data *", "with space"])
def test_a_folder_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path, folder: str):
    place = shards(tmp_path / folder, "a.jsonl", "b.jsonl")
    assert names(place) == names(place / "*.jsonl") == ["a.jsonl", "b.jsonl"]
    write_rows(place / "x[1].jsonl", QUESTIONS)
    assert names(place / "x[1].jsonl") == ["x[1].jsonl"]


def test_a_pattern_that_matches_nothing_tells_what_the_folder_holds(tmp_path: Path):
    shards(tmp_path, "a.jsonl")
    with pytest.raises(BadInput, match="matches no file of rows") as refused:
        find_files(tmp_path / "*.parquet")
    assert refused.value.hint.endswith("holds a.jsonl")


def test_a_double_star_reads_every_level_once_and_ends_at_a_link_to_a_folder_above(tmp_path: Path):
    folder = shards(tmp_path / "data", "a.jsonl", "b/c/d.jsonl")
    (folder / "b" / "loop").symlink_to(folder)
    assert names(folder) == names(folder / "**" / "*.jsonl") == names(folder / "**") == ["a.jsonl", "d.jsonl"]
    assert find_files(folder / "**" / "*.jsonl").notes == ()


def test_links_in_a_circle_end_and_a_file_is_read_under_its_own_name(tmp_path: Path):
    folder = shards(tmp_path / "data", "z/a.jsonl", "b.jsonl")
    for name in ("one", "two", "z/three", "z/four"):
        (folder / name).symlink_to(folder)
    (folder / "a-link").symlink_to("z")
    found = find_files(folder / "**" / "*.jsonl")
    assert [str(each.relative_to(folder)) for each in found.files] == ["b.jsonl", "z/a.jsonl"]
    assert found.notes == ("not read, as read already: a.jsonl",)


def test_a_pattern_matches_as_in_a_shell(tmp_path: Path):
    folder = shards(
        tmp_path, "a 1.jsonl", "a 2.jsonl", "B.jsonl", ".h.jsonl", "c/a 3.jsonl", "c/.d/e.jsonl", "[x]/f.jsonl"
    )
    assert names(folder / "a [12].jsonl") == names(folder / "a ?.jsonl") == ["a 1.jsonl", "a 2.jsonl"]
    assert names(folder / "*" / "a*") == ["a 3.jsonl"] and names(folder / "[x]" / "*") == ["f.jsonl"]
    assert names(folder / "**" / "*.jsonl") == ["B.jsonl", "f.jsonl", "a 1.jsonl", "a 2.jsonl", "a 3.jsonl"]
    assert names(folder / "**" / "c" / "**") == ["a 3.jsonl"]


def test_a_pattern_leaves_out_files_beside_the_rows_unless_it_matches_nothing_else(tmp_path: Path):
    folder = shards(tmp_path, "info.json", "rows.json")
    assert names(folder / "*.json") == ["rows.json"]
    assert find_files(folder / "*.json").notes == ("not read, as no file of rows: info.json",)
    assert names(folder / "in*.json") == ["info.json"]


def test_a_file_behind_two_names_is_read_once(tmp_path: Path):
    folder = shards(tmp_path, "a.jsonl")
    (folder / "b.jsonl").symlink_to("a.jsonl")
    assert names(folder) == ["a.jsonl"] and "not read, as read already: b.jsonl" in find_files(folder).notes


def test_a_folder_of_a_model_is_no_data(tmp_path: Path):
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(BadInput, match="holds a model"):
        find_files(tmp_path)


# Folders of `datasets.save_to_disk`.


def saved(folder: Path, rows: int = 3) -> Path:
    """A data set as `save_to_disk` writes it, in two Arrow streams."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    files = [f"data-0000{n}-of-00002.arrow" for n in range(2)]
    for number, name in enumerate(files):
        table = pa.Table.from_pylist([{**QUESTIONS[0], "question": f"{number} {row}"} for row in range(rows)])
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}), "utf-8")
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    (folder / "cache-1.arrow").write_bytes(b"not these")
    return folder


def test_a_saved_data_set_is_read_from_all_its_files(tmp_path: Path):
    found = list(read_rows(saved(tmp_path / "set")))
    assert [row["question"] for _, row in found] == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]
    assert str(found[-1][0]).endswith("data-00001-of-00002.arrow: row 3")


def test_the_split_chooses_one_of_a_saved_dictionary(tmp_path: Path):
    for name in ("train", "test"):
        saved(tmp_path / "sets" / name)
    (tmp_path / "sets" / "dataset_dict.json").write_text(json.dumps({"splits": ["test", "train"]}), encoding="utf-8")
    assert find_files(tmp_path / "sets").files[0].parent.name == "train"
    assert find_files(tmp_path / "sets", "test").files[0].parent.name == "test"
    with pytest.raises(BadInput, match="has no split `dev`"):
        find_files(tmp_path / "sets", "dev")


def test_an_arrow_file_and_an_arrow_stream_give_equal_rows(tmp_path: Path):
    import pyarrow as pa

    table = pa.Table.from_pylist(QUESTIONS)
    for name, writer in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with writer(str(tmp_path / name), table.schema) as out:
            out.write_table(table)
    by_name = [[row for _, row in read_rows(tmp_path / name)] for name in ("file.arrow", "stream.arrow")]
    assert by_name == [QUESTIONS, QUESTIONS]


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"\xff\xff\xff\xff nonsense", b"x" * 100])
def test_a_broken_arrow_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a.arrow").write_bytes(content)
    with pytest.raises(BadInput):
        list(read_rows(tmp_path / "a.arrow"))


# A split that the rows do not have.


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("all.jsonl", "train", "test"),
        ("all.jsonl", "train", "train[:10%]"),
        ("rows.test.jsonl.gz", "test", "train"),
        ("dev/all.csv", "validation", "test"),
        ("dev/all.csv", "train", "dev"),
        ("eval/train.parquet", "train", "test"),
    ],
)
def test_a_split_that_one_file_does_not_have_is_refused(tmp_path: Path, file: str, right: str, wrong: str):
    require_local_keys(tmp_path / "data" / file, None, right, is_file=True)
    with pytest.raises(BadInput, match=rf"has no split `{re.escape(wrong)}`") as refused:
        require_local_keys(tmp_path / "data" / file, None, wrong, is_file=True)
    assert refused.value.hint == "remove `dataset.split`: without it all its rows are read"


def test_a_split_that_shards_do_not_have_is_refused_in_a_folder_and_in_a_pattern(tmp_path: Path):
    folder = shards(tmp_path, "part-1.jsonl", "part-2.jsonl")
    for place in (folder, folder / "*.jsonl", folder / "**"):
        assert names(place, "train") == names(place) == ["part-1.jsonl", "part-2.jsonl"]
        with pytest.raises(BadInput, match="has no split `test`"):
            find_files(place, "test")


@pytest.mark.parametrize(("own", "right"), [(None, "train"), ("train", "train"), ("test", "test")])
def test_a_split_that_a_saved_data_set_does_not_have_is_refused(tmp_path: Path, own: str | None, right: str):
    state = json.loads((saved(tmp_path / "set") / "state.json").read_text(encoding="utf-8"))
    (tmp_path / "set" / "state.json").write_text(json.dumps({**state, "_split": own}), encoding="utf-8")
    for place in (tmp_path / "set", tmp_path / "s*"):
        assert names(place, right) == names(place)
        with pytest.raises(BadInput, match="has no split `other`"):
            find_files(place, "other")


def test_a_configuration_of_local_data_is_refused(tmp_path: Path):
    for is_file in (True, False):
        with pytest.raises(BadInput, match="only data sets on the Hub have one") as refused:
            require_local_keys(tmp_path, "main", None, is_file=is_file)
        assert refused.value.key == "dataset.config"


def test_the_splits_of_a_saved_data_set_that_are_not_read_are_reported(tmp_path: Path):
    for name in ("train", "test"):
        saved(tmp_path / name)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    assert find_files(tmp_path).notes == ("not read, of the split test: test/",)
    assert find_files(tmp_path, "test").notes == ("not read, of the split train: train/",)
