"""The files beside the package: in a checkout they surround it, and a wheel brings a copy along."""

from pathlib import Path

PACKAGED = "_project"  # the folder of the copy, in the package


def project_root() -> Path:
    """The folder of the trainers and of the image's files: the checkout of this package, or their copy in a wheel."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / PACKAGED
    return packaged if packaged.is_dir() else package.parent
