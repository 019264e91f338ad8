"""The devices that CDI files on this machine describe."""

from collections.abc import Iterable
from pathlib import Path

from dimba.spec.yaml12 import Document


def cdi_devices(folders: Iterable[str]) -> frozenset[str]:
    """`kind=name` of every device in the CDI files (YAML or JSON) of `folders`; a broken file counts as empty."""
    files = (file for folder in folders for file in sorted(Path(folder).glob("*")))
    return frozenset(device for file in files if file.suffix in (".yaml", ".json") for device in _devices(file))


def _devices(file: Path) -> list[str]:
    try:
        value = Document(file.read_bytes()).value
    except OSError:
        return []
    if not isinstance(value, dict) or not isinstance(value.get("devices"), list):
        return []
    names = (device.get("name") for device in value["devices"] if isinstance(device, dict))
    return [f"{value.get('kind')}={name}" for name in names]
