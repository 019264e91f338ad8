"""What the host asks of an export, as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dimba.common.trained import TrainedModel


@dataclass(frozen=True, kw_only=True)
class Request:
    """An export of `trained` into the empty folder `target`, or the check of the one in `check`."""

    trained: TrainedModel
    target: Path = Path()
    check: Path | None = None
    gguf: str = ""  # the type of a GGUF file; empty for a merged model
    dtype: str = "auto"
    name: str = "model"  # of a GGUF file, without type and suffix
    argv: tuple[str, ...] = ()  # the trainer's command line, for the rows of the proof
    likeliest: tuple[Mapping[str, Any], ...] = ()  # what the model in memory continued its prompts with
    about: Mapping[str, Any] = field(default_factory=dict)  # run, base, data, settings, results: for the card

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Request:
        """Reads the host's object; ignores unknown keys."""
        known = {each.name: value[each.name] for each in fields(cls) if each.name in value}
        return cls(
            **{
                **known,
                "trained": TrainedModel.from_json(value["trained"]),
                "target": Path(value.get("target") or "."),
                "check": Path(value["check"]) if value.get("check") else None,
                "argv": tuple(known.get("argv") or ()),
                "likeliest": tuple(known.get("likeliest") or ()),
                "about": known.get("about") or {},
            }
        )
