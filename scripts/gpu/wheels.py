"""Fetches the wheels that a bare GPU machine lacks, for `accept.py --wheels FOLDER` there.

    python scripts/gpu/wheels.py FOLDER [--python 3.12] [--slim] [--with-base]

The machine is expected to have torch with its CUDA libraries, and accelerate: these, and what they require, are not
fetched. The versions are those of docker/constraints.txt. Run it with the pip of any Python; it needs a network.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # in place of this script's folder

from pip._vendor.packaging.requirements import Requirement  # noqa: E402

from scripts.gpu.slim import slim  # noqa: E402

_PINS = ROOT / "docker" / "constraints.txt"
_PLATFORMS = ["linux_x86_64", "manylinux2014_x86_64", *(f"manylinux_2_{least}_x86_64" for least in range(5, 40))]
# Torch, accelerate and what these two require; `nvidia-…` and `cuda-…` beside them.
_BASE = {
    *("torch", "triton", "accelerate", "numpy", "psutil", "pyyaml", "sympy", "mpmath", "networkx", "setuptools"),
    *("jinja2", "markupsafe", "filelock", "hf-xet"),
}
_ELSEWHERE = ("nvidia-", "cuda-")
_KERNELS = ("liger-kernel==0.8.5",)  # as in the Dockerfile, which installs it beside Triton only


def main() -> int:
    """Fetch; prints the size of each wheel above 1 MB and of all together."""
    args = _arguments()
    folder = Path(args.folder)
    wanted = [each for each in pins(args.python) if args.with_base or not is_base(each)]
    if status := _download(wanted, folder, args.python):
        return status
    if args.slim:
        for wheel in sorted(folder.glob("*.whl")):
            slim(wheel)
    sizes = {each.name: each.stat().st_size for each in folder.glob("*.whl")}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if size > 1e6:
            print(f"{size / 1e6:7.1f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:7.1f} MB  in {len(sizes)} wheels, in {folder}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The wheels that a bare GPU machine lacks.")
    parser.add_argument("folder")
    parser.add_argument("--python", default="3.12", help="of that machine (default: 3.12)")
    parser.add_argument("--slim", action="store_true", help="leave out the parts of large wheels that no check uses")
    parser.add_argument("--with-base", action="store_true", help="fetch torch, accelerate and CUDA's libraries too")
    return parser.parse_args()


def pins(python: str) -> list[str]:
    """The pinned packages for Linux on x86-64 with this Python, as `name==version`."""
    there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    there |= {"platform_machine": "x86_64", "implementation_name": "cpython"}
    lines = [Requirement(line) for line in _PINS.read_text(encoding="utf-8").splitlines() if line.strip()]
    pinned = [f"{each.name}{each.specifier}" for each in lines if not each.marker or each.marker.evaluate(there)]
    return [*pinned, *_KERNELS]


def is_base(pin: str) -> bool:
    """Whether a machine with torch and accelerate has the package."""
    name = pin.partition("==")[0]
    return name in _BASE or name.startswith(_ELSEWHERE)


def _download(pinned: list[str], folder: Path, python: str) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    target = ["--python-version", python, "--implementation", "cp"]
    target += [part for each in _PLATFORMS for part in ("--platform", each)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *target]
    return subprocess.run([*command, "--dest", str(folder), *pinned], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
