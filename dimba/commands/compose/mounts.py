"""Whether a path in the container lies on the host; everything else is lost with the container."""

import os
from pathlib import Path

from dimba.host.output import nearest_existing


def is_mounted(path: Path) -> bool:
    """Whether `path` lies on a mount of the host, even if it does not exist yet."""
    place = nearest_existing(path)
    return str(next(each for each in (place, *place.parents) if os.path.ismount(each))) != "/"
