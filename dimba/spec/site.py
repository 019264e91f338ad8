"""What a user wrote down once about their cluster, for all of their specs."""

import os
from pathlib import Path

from pydantic import ValidationError

from dimba.common.errors import BadInput
from dimba.spec.model import SlurmSite
from dimba.spec.yaml12 import Document, dotted


def site_file() -> Path:
    """Where it lies: `dimba/slurm.yaml` among the user's configuration."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dimba" / "slurm.yaml"


def load_site() -> SlurmSite:
    """The site's defaults, none where there is no file; raises BadInput with everything that is wrong with it."""
    path = site_file()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return SlurmSite()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "mend its permissions, or remove it") from None
    document = Document(data)
    lines = [f"{path}:{problem}" for problem in document.problems]
    if not lines:
        try:
            return SlurmSite.model_validate(document.value or {})
        except ValidationError as error:
            lines = [_line(path, document, tuple(each["loc"]), each["msg"]) for each in error.errors()]
    raise BadInput("\n".join(lines), f"it knows {', '.join(SlurmSite.model_fields)}")


def _line(path: Path, document: Document, key: tuple[str | int, ...], what: str) -> str:
    while key not in document.lines:
        key = key[:-1]
    return f"{path}:{document.lines[key]}: {dotted(key)}: {what}"
