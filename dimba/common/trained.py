"""A trained model on disk, as the host names it to the code that loads it. Standard library only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.adapter import CONFIG
from dimba.common.contract import read_json_object


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A folder with a model or an adapter, and how it was trained."""

    folder: str  # or a Hub id, of a base alone
    base: str = ""  # of an adapter: a folder or a Hub id; empty for a complete model
    four_bit: bool = False  # the adapter was trained on a quantised base
    trust_remote_code: bool = False
    allow_pickle: bool = False
    chat_template_kwargs: str | None = None
    template_date: str | None = None
    control_tokens: str = "text"

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter on `base`."""
        return bool(self.base)

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainedModel":
        """Reads `as_json`; ignores unknown keys."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})


def adapter_base(folder: Path) -> str | None:
    """The base that an adapter in `folder` names (empty if it names none); None if the folder holds no adapter."""
    if not (folder / CONFIG).is_file():
        return None
    base = read_json_object(folder / CONFIG).get("base_model_name_or_path")
    return base if isinstance(base, str) else ""
