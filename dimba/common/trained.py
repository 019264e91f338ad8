"""A trained model on disk, as the host names it to the code that loads it. Standard library only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.adapter import CONFIG
from dimba.common.contract import EXPORT_FILE, read_json_object
from dimba.common.errors import BadInput

_GGUF = ".gguf"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A folder with a model or an adapter, and how it was trained."""

    folder: str  # or a Hub id, of a base alone
    base: str = ""  # of an adapter: a folder or a Hub id; empty for a complete model
    gguf: str = ""  # a file of its weights, which llama.cpp runs in their place; `folder` has the tokenizer
    four_bit: bool = False  # the adapter was trained on a quantised base
    trust_remote_code: bool = False
    allow_pickle: bool = False
    chat_template_kwargs: str | None = None
    template_date: str | None = None
    control_tokens: str = "text"
    mask_token: str | None = None  # of masked diffusion, where training was given it

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


def gguf_in(place: Path) -> Path | None:
    """The GGUF file at `place`, or the only one in the folder of an export; raises BadInput if it has several."""
    if place.suffix == _GGUF:
        return place if place.is_file() else None
    found = sorted(place.glob(f"*{_GGUF}")) if (place / EXPORT_FILE).is_file() else []
    if len(found) > 1:
        raise BadInput(f"{place} has {len(found)} GGUF files", f"give one of them, such as `{found[0]}`")
    return found[0] if found else None
