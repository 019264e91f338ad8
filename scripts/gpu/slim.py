"""Wheels for a narrow way: without parts that no check uses, and packed tighter than wheels are, which pip can read."""

import base64
import hashlib
import re
import zipfile
from pathlib import Path

_SMALL = 1 << 17  # bytes of a file that LZMA packs no tighter
_CUDA = "130"  # of the torch on the machine
# By the beginning of a wheel's name: the files that stay out.
_UNUSED = {
    "bitsandbytes": rf"libbitsandbytes_(?!cpu|cuda{_CUDA})\w+\.so",
    "pyarrow": r"/tests/|/include/|/src/|\.p(?:yx|xd|xi)$|flight|gandiva|orc\.|_s3|_gcsfs|_azurefs|_hdfs"
    r"|_cpp_tests|libarrow_python\.so$|\.so\.\d+\.\d+\.\d+$",
    "pandas": r"/tests/",
}


def slim(wheel: Path) -> None:
    """Writes the wheel again, without what no check uses."""
    pattern = next((each for name, each in _UNUSED.items() if wheel.name.startswith(f"{name}-")), "(?!)")
    part = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(part, "w") as target:
        record = next(name for name in source.namelist() if name.endswith(".dist-info/RECORD"))
        lines = []
        for each in source.infolist():
            if each.filename == record or re.search(pattern, each.filename):
                continue
            content = source.read(each)
            target.writestr(each, content, zipfile.ZIP_LZMA if len(content) > _SMALL else zipfile.ZIP_DEFLATED)
            lines.append(f"{each.filename},{_hash(content)},{len(content)}\n")
        target.writestr(record, "".join([*lines, f"{record},,\n"]))
    part.replace(wheel)


def _hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
