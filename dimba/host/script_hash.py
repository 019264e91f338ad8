"""The content hash of a script with the modules that it imports from its own folder."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path


def script_hash(script: Path) -> str | None:
    """SHA-256 of the names and contents of a script and its own modules; None if the script cannot be read."""
    files: dict[Path, bytes] = {}
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file not in files and (content := _read(file)) is not None:
            files[file] = content
            waiting += _modules(content, script.parent)
    if script not in files:
        return None
    digest = hashlib.sha256()
    for file, content in sorted(files.items()):
        digest.update(f"{file.relative_to(script.parent)}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _modules(content: bytes, folder: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # a shell script
        return
    for node in ast.walk(tree):
        for name in _imported(node):
            place = folder.joinpath(*name.split("."))
            yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []
