#!/usr/bin/env python3
"""Makes the wheel `dimba_llama`: llama.cpp's library, its Python bindings and its converter, from one sdist of PyPI.

The source distribution of llama-cpp-python carries llama.cpp complete (both MIT). Standard library only, because the
image runs it before anything else of dimba is there. It needs cmake and a C++ compiler; about two minutes on two cores.
"""

import argparse
import base64
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

SDIST = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
RECIPE = 1  # of this file: another one makes another wheel
VERSION = f"{SDIST}.{RECIPE}"
# pip makes an sdist's metadata even where it only downloads it.
BACKEND = "scikit-build-core==1.1.2\npathspec==1.1.1\npackaging==26.4\n"

PLATFORM = f"linux_{platform.machine()}"
WHEEL = f"dimba_llama-{VERSION}-py3-none-{PLATFORM}.whl"
LIBRARIES = ("libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so")
BINDINGS = ("llama_cpp.py", "_ctypes_extensions.py")
INFO = f"dimba_llama-{VERSION}.dist-info"
METADATA = f"""\
Metadata-Version: 2.1
Name: dimba-llama
Version: {VERSION}
Summary: llama.cpp's library, bindings and converter, from llama-cpp-python {SDIST}
License: MIT
Requires-Python: >=3.11
"""
WHEEL_METADATA = f"Wheel-Version: 1.0\nGenerator: dimba\nRoot-Is-Purelib: false\nTag: py3-none-{PLATFORM}\n"
INIT = f'"""llama.cpp, as llama-cpp-python {SDIST} brings it. MIT licence."""\n\n__version__ = "{VERSION}"\n'


class Failed(Exception):
    """A step failed; the message says which, and what to do."""


def main() -> int:
    """Makes the wheel where it is missing, unpacks it where asked, and prints its path."""
    options = _parser().parse_args()
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        with (options.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
            wheel = make(options.folder, options.sdist)
            if not options.wheel_only:
                unpack(wheel, options.folder / VERSION)
    except (Failed, OSError) as error:
        print(f"make_llama: {error}", file=sys.stderr)
        return 4
    print(wheel)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make llama.cpp's library, bindings and converter for `dimba export`.")
    parser.add_argument("--folder", type=Path, default=cache(), help="where the wheel goes (default: dimba's cache)")
    parser.add_argument("--sdist", type=Path, help=f"llama_cpp_python-{SDIST}.tar.gz, instead of downloading it")
    parser.add_argument("--wheel-only", action="store_true", help="do not unpack it beside it, where dimba finds it")
    return parser


def cache() -> Path:
    """The folder in which dimba looks for llama.cpp on the host."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dimba" / "llama"


def make(folder: Path, sdist: Path | None = None) -> Path:
    """The path of the wheel in `folder`, which is made if it is not there; raises Failed."""
    wheel = folder / WHEEL
    if wheel.is_file():
        return wheel
    _require_tools()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as name:
        work = Path(name)
        source = _unpacked(sdist or _downloaded(work), work)
        _compile(source / "vendor" / "llama.cpp", work / "build")
        _write_wheel(work / WHEEL, dict(_contents(source, work / "build" / "lib")))
        (work / WHEEL).replace(wheel)
    return wheel


def unpack(wheel: Path, folder: Path) -> None:
    """Unpacks the wheel to `folder`, complete or not at all."""
    if folder.is_dir():
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as name:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(name, "wheel"))  # noqa: S202  # written above
        Path(name, "wheel").rename(folder)


def _require_tools() -> None:
    compiler = os.environ.get("CXX") or "c++"
    missing = [tool for tool in ("cmake", compiler, "make") if shutil.which(tool) is None]
    if missing:
        raise Failed(f"{' and '.join(missing)} not found\n\nhint: `apt-get install -y cmake g++ make`")


def _downloaded(work: Path) -> Path:
    (work / "backend.txt").write_text(BACKEND)
    (work / "sdist.txt").write_text(f"llama-cpp-python=={SDIST} --hash=sha256:{SHA256}\n")
    pins = {name: str(work / "backend.txt") for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--no-binary", "llama-cpp-python", "--require-hashes", "-r", str(work / "sdist.txt"), "-d", str(work)]
    print(f"downloading llama-cpp-python {SDIST} (77 MB)", flush=True, file=sys.stderr)
    if subprocess.run(pip, env=os.environ | pins, check=False).returncode:
        raise Failed(f"llama-cpp-python {SDIST} cannot be downloaded\n\nhint: download it elsewhere, `--sdist FILE`")
    return next(work.glob("llama_cpp_python-*.tar.gz"))


def _unpacked(sdist: Path, work: Path) -> Path:
    if hashlib.sha256(sdist.read_bytes()).hexdigest() != SHA256:
        raise Failed(f"{sdist} is not llama-cpp-python {SDIST}: its SHA-256 differs")
    with tarfile.open(sdist) as archive:
        # The vocabularies, tests and pages are most of it.
        needed = re.compile(r"/(llama_cpp|LICENSE|vendor/llama\.cpp/(?!models/|tools/|tests/|docs/|media/|examples/))")
        archive.extractall(work, [each for each in archive if needed.search(each.name)])  # noqa: S202  # known by hash
    return work / f"llama_cpp_python-{SDIST}"


def _compile(llama_cpp: Path, build: Path) -> None:
    jobs = len(os.sched_getaffinity(0))
    print(f"compiling llama.cpp with {jobs} jobs: some minutes", flush=True, file=sys.stderr)
    configure = ["cmake", "-S", str(Path(__file__).resolve().parent), "-B", str(build), f"-DLLAMA_CPP={llama_cpp}"]
    for command in (configure, ["cmake", "--build", str(build), "--target", "llama", "--parallel", str(jobs)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise Failed(f"`{' '.join(command[:2])}` failed\n{done.stdout[-3000:]}")


def _contents(source: Path, libraries: Path) -> Iterator[tuple[str, bytes]]:
    llama_cpp = source / "vendor" / "llama.cpp"
    yield "dimba_llama/__init__.py", INIT.encode()
    for name in BINDINGS:
        text = (source / "llama_cpp" / name).read_text(encoding="utf-8")
        yield f"dimba_llama/{name}", text.replace("from llama_cpp.", "from dimba_llama.").encode()
    for name in LIBRARIES:
        yield f"dimba_llama/lib/{name}", (libraries / name).read_bytes()
    for pattern in ("convert_hf_to_gguf.py", "conversion/*.py", "gguf-py/gguf/*.py"):
        for path in sorted(llama_cpp.glob(pattern)):
            yield f"dimba_llama/converter/{path.relative_to(llama_cpp)}", path.read_bytes()
    yield f"{INFO}/licenses/LICENSE.llama.cpp", (llama_cpp / "LICENSE").read_bytes()
    yield f"{INFO}/licenses/LICENSE.llama-cpp-python", (source / "LICENSE.md").read_bytes()
    yield f"{INFO}/METADATA", METADATA.encode()
    yield f"{INFO}/WHEEL", WHEEL_METADATA.encode()


def _write_wheel(path: Path, contents: dict[str, bytes]) -> None:
    record = f"{INFO}/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in contents.items()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in {**contents, record: "\n".join([*lines, f"{record},,", ""]).encode()}.items():
            wheel.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    sys.exit(main())
