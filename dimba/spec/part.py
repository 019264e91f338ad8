"""Part: a section of the spec."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A section: unknown keys and values of another type are errors, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
