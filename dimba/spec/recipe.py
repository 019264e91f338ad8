"""The block `recipe` that `dimba pack` adds to a spec: what a run was made of, its figures, and a seal over both."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from dimba.common.errors import BadInput
from dimba.spec.part import Line, Part
from dimba.spec.yaml12 import Document, Key, key_path

BLOCK, VERSION = "recipe", 1
UNKNOWN = "unknown"  # the commit of a repository that does not answer, the hash of a file that cannot be read
_SEAL = "seal"
_CAUSES = {"missing": "required, and not given", "extra_forbidden": "unknown key"}
AGAIN = "pack the run again with `dimba pack`; or remove `recipe:`, and it is a spec like any other"
_EDITED = (
    "the file has been edited since it was packed",
    "change values with `--set key=value`, which is noted; or remove `recipe:`, and the file is a spec of your own",
)


class Content(Part):
    """A model, or data: a repository of the Hub at a commit, or files by their hash."""

    name: Line  # an id on the Hub, or the name of a file or folder
    hub: bool = False
    revision: Line | None = None
    hash: Line | None = None

    @model_validator(mode="after")
    def _is_identified(self) -> "Content":
        if not (self.revision if self.hub else self.hash):
            raise ValueError(f"has no `{'revision' if self.hub else 'hash'}`, so that nothing could be compared")
        return self


class SourceContent(Content):
    """One data set, under its key of the spec."""

    key: Line
    rows: int | None = None
    files: dict[str, Line] = Field(default_factory=dict)  # hashes by name, where there are several


class CodeFile(Part):
    """A file that the run executed or read, and dimba does not come with; its text only if it was asked for."""

    key: Line
    name: Line
    hash: Line
    text: str | None = None


class Software(Part):
    """The versions that trained."""

    dimba: Line | None = None
    revision: Line | None = None  # of git; of an installed dimba a hash of its code
    changes: Line | None = None  # the hash of uncommitted changes
    image: Line | None = None
    image_digest: Line | None = None
    lock: Line | None = None  # the hash of the pinned versions
    packages: dict[str, Line] = Field(default_factory=dict)


class Hardware(Part):
    """What trained."""

    runner: Line | None = None
    gpus: list[Line] = Field(default_factory=list)
    driver: Line | None = None
    processes: int | None = None
    strategy: Line | None = None
    precision: Line | None = None


class Steps(Part):
    """How long it trained."""

    effective_batch: int | None = None
    total: int | None = None
    seconds: float | None = None


class Recipe(Part):
    """What one run was made of and came to; nothing in it is a row, a secret, or a path of the machine."""

    version: int
    run: Line
    base: Content
    data: list[SourceContent] = Field(min_length=1)
    code: list[CodeFile] = Field(default_factory=list)
    software: Software = Software()
    hardware: Hardware = Hardware()
    steps: Steps = Steps()
    figures: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    seal: Line = ""


def read_recipe(document: Document) -> tuple[Recipe | None, list[BadInput]]:
    """(the block of a document, its mistakes); (None, []) for a spec without one."""
    if BLOCK not in document.value:
        return None, []
    value = document.value[BLOCK]
    if not isinstance(value, dict):
        return None, [_at(document, (BLOCK,), "expected a section of keys")]
    if value.get("version") != VERSION:
        cause = f"`{value.get('version')}` is a version that this dimba does not read; it reads {VERSION}"
        return None, [_at(document, (BLOCK, "version"), cause, "use the dimba that packed it, or a newer one")]
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        return None, [_invalid(document, each) for each in error.errors()]
    if recipe.seal != seal_of(document.value):
        return recipe, [_at(document, (BLOCK, _SEAL), _EDITED[0], _EDITED[1])]
    return recipe, []


def seal_of(value: Mapping[str, Any]) -> str:
    """The hash of a spec's values with those of its recipe; of its comments and its layout nothing enters it."""
    recipe = {key: item for key, item in value[BLOCK].items() if key != _SEAL}
    text = json.dumps({**value, BLOCK: recipe}, sort_keys=True, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def sealed(spec: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The values of a file with both."""
    value = {**spec, BLOCK: recipe.model_dump(mode="json", exclude_defaults=True, exclude={_SEAL})}
    value[BLOCK][_SEAL] = seal_of(value)
    return value


def _invalid(document: Document, error: Any) -> BadInput:
    cause = _CAUSES.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    return _at(document, (BLOCK, *error["loc"]), cause)


def _at(document: Document, key: Key, cause: str, hint: str = AGAIN) -> BadInput:
    known = key
    while known not in document.lines:
        known = known[:-1]
    return BadInput(cause, hint, key=key_path(key), line=document.lines[known])
