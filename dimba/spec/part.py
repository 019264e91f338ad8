"""A section of a spec, and the texts that it may hold."""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _one_line(value: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError("holds a line break or another control character")
    return value


def _not_too_long(value: str) -> str:
    if len(value) > 2000 or any(len(part.encode()) > 255 for part in re.split("[/:]", value)):
        raise ValueError("is longer than a file's name may be")
    return value


# Texts that become a path or the name of an image or a variable, and that the question of trust prints.
Line = Annotated[str, AfterValidator(_one_line)]
Place = Annotated[Line, AfterValidator(_not_too_long)]


class Part(BaseModel):
    """A section: unknown keys and values of another type are errors, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
