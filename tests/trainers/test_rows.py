"""Rows from a file, and from the Hub through a stand-in for its library."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dimba.common.errors import BadInput, HostCannot, UnusableRow
from dimba.dataset.formats import Sample
from dimba.trainers.data.rows import Source, available_memory
from tests.conftest import QUESTIONS, write_rows

CHAT = {"messages": {"role": ["user", "assistant"], "content": ["Q", "A"]}}


class StandIn:
    """In place of the library `datasets`: a data set of `rows` that claims to have `size` bytes."""

    exceptions = SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))

    def __init__(self, rows: list[dict[str, Any]], size: int) -> None:
        self.rows, self.size = rows, size
        self.asked: dict[str, Any] = {}

    def load_dataset_builder(self, name: str, config: str | None) -> Any:
        split = SimpleNamespace(num_bytes=self.size)
        info = SimpleNamespace(splits={"train": split}, dataset_size=self.size)
        return SimpleNamespace(info=info, config=SimpleNamespace(name=config))

    def load_dataset(self, name: str, config: str | None, **options: Any) -> Any:
        if name == "no/data":
            raise self.exceptions.DatasetsError("not found\non the Hub")
        self.asked = {"name": name, "config": config, **options}
        return self.rows


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    def put(rows: list[dict[str, Any]], size: int = 1000) -> StandIn:
        library = StandIn(rows, size)
        monkeypatch.setitem(sys.modules, "datasets", library)
        return library

    return put


def test_samples_of_a_file_have_their_lines_and_unusable_rows_stay_in_place(tmp_path: Path):
    path = write_rows(tmp_path / "data.jsonl", [QUESTIONS[0], {"question": "Q"}, QUESTIONS[1]])
    form, samples = Source(str(path)).samples()
    first, second, third = samples
    assert form.name == "question/answer"
    assert isinstance(first[1], Sample) and isinstance(third[1], Sample)
    assert str(second[0]) == f"{path}:2" and isinstance(second[1], UnusableRow)


def test_messages_in_the_hubs_older_column_layout_are_read(hub):
    library = hub([CHAT, CHAT])
    _, samples = Source("own/chats", "main").samples()
    where, sample = next(samples)
    assert str(where) == "own/chats[train]: row 1" and isinstance(sample, Sample)
    assert [message["content"] for message in sample.messages] == ["Q", "A"]
    assert library.asked == {"name": "own/chats", "config": "main", "split": "train", "streaming": False}


@pytest.mark.parametrize(("size", "split", "streams"), [(1 << 60, "train", True), (1 << 60, "train[:9%]", False)])
def test_a_split_larger_than_the_memory_is_streamed(hub, size: int, split: str, streams: bool):
    library = hub([CHAT], size)
    Source("own/chats", split=split).samples()
    assert library.asked["streaming"] is streams and 0 < available_memory() < size


def test_a_stream_reads_its_range_of_rows_alone(hub):
    library = hub([{"prompt": str(n), "response": "a"} for n in range(9)])
    _, samples = Source("own/chats", stream=True, start=3, stop=5).samples()
    assert [str(where) for where, _ in samples] == ["own/chats[train]: row 4", "own/chats[train]: row 5"]
    assert library.asked["streaming"] is True


def test_a_network_that_fails_during_a_stream_is_no_mistake_of_the_user(hub):
    def rows():
        yield {"prompt": "a", "response": "b"}
        raise ConnectionError("connection reset")

    hub(rows())
    _, samples = Source("own/chats", stream=True).samples()
    with pytest.raises(HostCannot, match="reading stopped behind row 1: connection reset") as failed:
        list(samples)
    assert "resume" in failed.value.hint


def test_a_data_set_that_the_hub_refuses_is_reported_in_one_line(hub):
    hub([])
    with pytest.raises(BadInput, match=r"data set `no/data`, split `train`: not found\n"):
        Source("no/data").samples()


def test_a_data_set_without_rows_is_refused(hub):
    hub([])
    with pytest.raises(BadInput, match="no rows"):
        Source("own/chats").samples()
