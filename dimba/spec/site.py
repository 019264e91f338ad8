"""The site file: a user's settings for their cluster, for all of their specs."""

import os
from pathlib import Path

from pydantic import ValidationError

from dimba.common.errors import BadInput
from dimba.spec.load import BadSpec
from dimba.spec.model import SlurmSite
from dimba.spec.yaml12 import Document, Key, key_path


def site_file() -> Path:
    """The path of the site file: `dimba/slurm.yaml` in the user's configuration folder."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dimba" / "slurm.yaml"


def load_site() -> SlurmSite:
    """The settings of the site file, empty without one; raises BadInput with all its problems."""
    path = site_file()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return SlurmSite()
    except OSError as error:
        raise BadInput(str(error.strerror), f"`chmod u+r {path}`, or remove it", file=path) from None
    document = Document(data)
    problems = document.problems
    if not problems:
        try:
            return SlurmSite.model_validate(document.value or {})
        except ValidationError as error:
            problems = [_problem(document, tuple(each["loc"]), each["msg"]) for each in error.errors()]
    raise BadSpec(str(path), problems, f"known keys: {', '.join(SlurmSite.model_fields)}")


def _problem(document: Document, key: Key, cause: str) -> BadInput:
    while key not in document.lines:
        key = key[:-1]
    return BadInput(cause, key=key_path(key), line=document.lines[key])
