"""Keys of `dataset` that local data do not have: a configuration, and of one file a split other than its own."""

from pathlib import Path

from dimba.common.errors import BadInput
from dimba.dataset.files.find import require_split


def require_local_keys(place: Path, config: str | None, split: str | None, *, is_file: bool) -> None:
    """Raises BadInput for a configuration of local data, or for a split that the one file `place` does not have."""
    if config is not None:
        cause = f"has no configuration `{config}`: only data sets on the Hub have one"
        raise BadInput(cause, "remove `dataset.config`", key="dataset.config", file=place)
    if is_file and split:
        require_split(place, split)
