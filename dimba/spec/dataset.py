"""The section `dataset`: one source of rows, or a list of them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from dimba.common.contract import looks_like_path
from dimba.dataset.mixture import MOST_WEIGHT
from dimba.options import table
from dimba.options.stream_table import NO_LISTS, ONE_SET, STREAM
from dimba.spec.part import Line, Part, Place

ONE, SEVERAL = "one data set", "several data sets"  # tags of the union, which occur in the places of pydantic's errors


class Dataset(Part):
    """The source of the rows: `name` on the Hub, or `path` on this machine."""

    name: Place | None = Field(None, min_length=1, description="a data set's id on the Hugging Face Hub")
    path: Place | None = Field(None, min_length=1, description=table.LOCAL_DATA.help)
    config: Line | None = Field(None, description=table.DATASET_CONFIG.help)
    split: Line | None = Field(None, description=table.DATASET_SPLIT.help)
    revision: Line | None = Field(None, min_length=1, description=table.DATASET_REVISION.help)
    columns: dict[str, str] = Field(default_factory=dict, description="our column: yours")
    stream: bool = Field(False, description=STREAM.help)

    @field_validator("name")
    @classmethod
    def _no_path(cls, value: str | None) -> str | None:
        if value is not None and looks_like_path(value):
            raise ValueError(f"`{value}` is a file: use `dataset.path` for it; `name` is a Hub id")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> "Dataset":
        if (self.name is None) == (self.path is None):
            raise ValueError("give one of `name` (a Hub id) and `path` (a file, a folder or a pattern)")
        if self.revision and self.path:
            raise ValueError("`revision` is of a data set on the Hub (`name`): a file has none")
        return self


class WeightedDataset(Dataset):
    """One of several data sets: its rows appear `weight` times in an epoch."""

    weight: Annotated[float, Field(gt=0, le=MOST_WEIGHT, allow_inf_nan=False)] = Field(
        1, description="how often its rows appear in an epoch; a fraction takes a part of them"
    )

    @field_validator("stream")
    @classmethod
    def _no_stream(cls, value: bool) -> bool:
        if value:
            raise ValueError(f"a list of data sets {NO_LISTS}: {ONE_SET}")
        return value


def _not_empty(value: Any) -> Any:
    if value == []:
        raise ValueError("an empty list: give at least one data set")
    return value


def _data_kind(value: Any) -> str:
    return SEVERAL if isinstance(value, list) else ONE


Data = Annotated[
    Annotated[Dataset, Tag(ONE)]
    | Annotated[list[WeightedDataset], Field(min_length=1), BeforeValidator(_not_empty), Tag(SEVERAL)],
    Discriminator(_data_kind),
]
