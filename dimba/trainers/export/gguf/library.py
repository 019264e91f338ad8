"""llama.cpp, as `docker/llama/make_llama.py` makes it: importable as `dimba_llama`, or in dimba's cache."""

import platform
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from dimba.common.contract import cache_home
from dimba.common.errors import HostCannot
from dimba.common.project import project_root

VERSION = "0.3.36.1"  # of docker/llama/make_llama.py
PACKAGE = "dimba_llama"
SENTENCEPIECE = "sentencepiece==0.2.3"  # of docker/llama/requirements.txt
_NEEDED = ("avx2", "fma", "f16c", "bmi2")  # what the library is compiled for, on x86-64


def bindings() -> ModuleType:
    """The module of llama.cpp's C functions.

    Raises:
        HostCannot: llama.cpp is not here, or this processor lacks its instructions.
    """
    _require()
    return import_module(f"{PACKAGE}.llama_cpp")


def converter() -> Path:
    """The folder of `convert_hf_to_gguf.py`; raises HostCannot as `bindings` does."""
    _require()
    found = find_spec(PACKAGE)
    assert found and found.origin
    return Path(found.origin).parent / "converter"


def is_here() -> bool:
    """Whether the llama.cpp that dimba is tested with can be loaded."""
    folder = cache_home() / "llama" / VERSION
    if (folder / PACKAGE).is_dir() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return find_spec(PACKAGE) is not None and import_module(PACKAGE).__version__ == VERSION


def search_path() -> list[str]:
    """The folder that another process of this Python must look into for llama.cpp, too; empty where it is installed."""
    return [folder for folder in sys.path if folder.endswith(f"llama/{VERSION}")]


def make_command() -> str:
    """The command that makes llama.cpp for this Python."""
    return f"{sys.executable} {project_root() / 'docker' / 'llama' / 'make_llama.py'}"


def _require() -> None:
    if not is_here():
        raise HostCannot("llama.cpp is not installed here", f"`{make_command()}` compiles it: some minutes, once")
    if lacking := _lacking_instructions():
        hint = "export on another machine; --merged needs no llama.cpp"
        raise HostCannot(f"llama.cpp needs a processor with {' '.join(lacking)}", hint)


def _lacking_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    if platform.machine() != "x86_64" or not cpuinfo.is_file():
        return []
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return [name for name in _NEEDED if name not in flags]
