"""Files in a store, by pyarrow's file systems or, for other protocols, fsspec's."""

import hashlib
import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from dimba.common.output_store import local_folder, protocol_of
from dimba.trainers.store.problems import no_protocol

_CHUNK = 1 << 20  # bytes
_CONNECT, _SILENT = 10.0, 30.0  # seconds until a connection, and between two bytes
_TRIES = 3

OnBytes = Callable[[int], None]


def uncounted(_bytes: int) -> None:
    """Counts nothing."""


class Store:
    """A folder of a store; names are relative to it. Every method raises OSError when the store fails."""

    def __init__(self, files: fs.FileSystem, root: str) -> None:
        self._files, self._root = files, root.rstrip("/")
        self._has_folders = not isinstance(files, getattr(fs, "S3FileSystem", ()))

    def below(self, name: str) -> "Store":
        """A folder in this one."""
        return Store(self._files, self._path(name))

    def put_file(
        self, name: str, path: Path, on_bytes: OnBytes = uncounted, *, start: int = 0, count: int | None = None
    ) -> str:
        """Copies a local file there, or `count` bytes of it from `start`, and returns the sha256 of what it copied."""
        digest, left = hashlib.sha256(), path.stat().st_size - start if count is None else count
        with path.open("rb") as source, self._writing(name) as target:
            source.seek(start)
            while left > 0 and (chunk := source.read(min(left, _CHUNK))):
                left -= len(chunk)
                target.write(chunk)
                digest.update(chunk)
                on_bytes(len(chunk))
        return digest.hexdigest()

    def put(self, name: str, data: bytes) -> None:
        """Replaces a small file."""
        with self._writing(name) as target:
            target.write(data)

    def read(self, name: str) -> bytes | None:
        """A small file; None if it is not there."""
        try:
            with self._files.open_input_stream(self._path(name)) as source:
                return bytes(source.read())
        except FileNotFoundError:
            return None

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; empty if it is missing, or is none."""
        with suppress(ValueError):
            value = json.loads(self.read(name) or b"null")
            return value if isinstance(value, dict) else {}
        return {}

    def get_file(self, name: str, path: Path, on_bytes: OnBytes = uncounted, *, appends: bool = False) -> str:
        """Copies a file from there, onto the disk, and returns its sha256; `appends` it to the local file."""
        digest = hashlib.sha256()
        with self._files.open_input_stream(self._path(name)) as source, path.open("ab" if appends else "wb") as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)
                digest.update(chunk)
                on_bytes(len(chunk))
            target.flush()
            os.fsync(target.fileno())
        return digest.hexdigest()

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The size in bytes of every file below a folder, by its name relative to it."""
        return {each.path[len(self._path(folder)) + 1 :]: each.size for each in self._found(folder) if each.is_file}

    def folders(self) -> list[str]:
        """The names of the folders in this one."""
        paths = (each.path for each in self._found("", recursive=False) if each.type == fs.FileType.Directory)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def delete(self, name: str) -> None:
        """Removes a file, unless it is gone."""
        with suppress(FileNotFoundError):
            self._files.delete_file(self._path(name))

    def delete_folder(self, name: str) -> None:
        """Removes a folder with all that is in it, unless it is gone."""
        with suppress(FileNotFoundError):
            self._files.delete_dir(self._path(name))

    def modified(self, name: str) -> float | None:
        """The time at which a file was written, by the store's clock; None if the store keeps none."""
        found = self._files.get_file_info(self._path(name))
        return found.mtime.timestamp() if found.mtime else None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _found(self, folder: str, *, recursive: bool = True) -> Iterator[fs.FileInfo]:
        selector = fs.FileSelector(self._path(folder), recursive=recursive, allow_not_found=True)
        yield from self._files.get_file_info(selector)

    def _writing(self, name: str) -> Any:
        path = self._path(name)
        if self._has_folders:
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
        return self._files.open_output_stream(path)


def open_store(address: str) -> Store:
    """The store at an address; connects to nothing. Raises BadInput if nothing here speaks its protocol."""
    protocol = protocol_of(address)
    place = address.partition("://")[2].rstrip("/")
    if protocol == "file":
        return Store(fs.LocalFileSystem(), str(local_folder(address)))
    if protocol == "s3":
        return Store(_s3(place.partition("/")[0]), place)
    return _other(address, protocol, place)


def _other(address: str, protocol: str, place: str) -> Store:
    try:
        if protocol in ("gs", "gcs"):
            return Store(fs.GcsFileSystem(), place)
        if protocol in ("abfs", "abfss"):
            files, path = fs.FileSystem.from_uri(address)
            return Store(files, path)
        import fsspec

        files, path = fsspec.core.url_to_fs(address)
    except (ImportError, AttributeError, ValueError) as error:
        raise no_protocol(protocol, error) from None
    return Store(fs.PyFileSystem(fs.FSSpecHandler(files)), path)


def _s3(bucket: str) -> fs.FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(
        region=region or (None if endpoint else fs.resolve_s3_region(bucket)),
        endpoint_override=endpoint,
        connect_timeout=_CONNECT,
        request_timeout=_SILENT,
        allow_delayed_open=True,  # a small file is one request
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
        tls_ca_file_path=_ca_file(),
        proxy_options=_proxy(endpoint or "https://s3.amazonaws.com"),
    )


def _ca_file() -> str | None:
    named = (os.environ.get(name, "") for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"))
    return next((path for path in named if Path(path).is_file()), None)


def _proxy(endpoint: str) -> str | None:
    parts = urlsplit(endpoint)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)
