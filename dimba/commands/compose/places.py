"""What of the host the container shows, found by looking: what lies elsewhere goes with the container."""

import os
from pathlib import Path

from dimba.host.output import nearest_existing


def is_shown(path: Path) -> bool:
    """Whether `path` lies on a mount of the host's, there or yet to be made."""
    place = nearest_existing(path)
    return str(next(each for each in (place, *place.parents) if os.path.ismount(each))) != "/"
