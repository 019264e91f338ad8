"""What a store answers, as causes and hints."""

import os
import re
import sys

from dimba.common.contract import ENV_PINS
from dimba.common.errors import BadInput, DimbaError, first_line

KEY = "output_store"
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "hf": "huggingface_hub"}
_PACKAGES |= {"sftp": "paramiko", "ssh": "sshfs", "webdav": "webdav4", "oci": "ocifs", "oss": "ossfs", "dav": "webdav4"}

_LOGIN = "login"
_RIGHTS = "rights"
_PLACE = "place"
_NETWORK = "network"
_OTHER = "other"
# Kind of failure: the words of its messages. The first that fits counts.
_SIGNS = (
    (_PLACE, r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist|ContainerNotFound"),
    (
        _LOGIN,
        r"INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch|INVALID_CLIENT_TOKEN"
        r"|InvalidToken|ExpiredToken|EXPIRED_TOKEN|MISSING_AUTHENTICATION|[Cc]redentials|HTTP status 401|Unauthorized",
    ),
    (_RIGHTS, r"ACCESS_DENIED|AccessDenied|HTTP status 403|Forbidden|Permission denied|Read-only file system"),
    (_NETWORK, r"NETWORK_CONNECTION|curlCode|[Tt]imed? ?out|Could not connect|resolve host|SLOW_DOWN|SERVICE_UNAVAIL"),
)
_WORDS = {
    _PLACE: "the bucket does not exist",
    _LOGIN: "its login is refused",
    _RIGHTS: "it allows no {doing}",
    _NETWORK: "it does not answer",
    _OTHER: "{doing} failed",
}
_HINTS = {
    _PLACE: "create the bucket, or correct `output_store`",
    _LOGIN: "`container: {env: [AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY]}` passes the login of this shell on; export "
    "the right one",
    _RIGHTS: "the login needs the rights to write, read, list and delete there (PutObject, GetObject, ListBucket, "
    "DeleteObject)",
    _NETWORK: "check AWS_ENDPOINT_URL and AWS_REGION in `container.env`, and the network; in a container 127.0.0.1 is "
    "the container itself, so that a store on this machine needs its other address, or `container.network: host`",
    _OTHER: "correct `output_store`, or leave it out",
}
_HINTS_HERE = {
    _LOGIN: "export the right AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in this shell",
    _RIGHTS: "export the login of a user who may read and list there in this shell",
    _NETWORK: "export AWS_ENDPOINT_URL or AWS_REGION in this shell where the store needs them, and check the network",
}


def kind_of(error: BaseException) -> str:
    """The kind of a failure, by which its repetitions are recognised."""
    text = f"{type(error).__name__}: {error}"
    return next((kind for kind, pattern in _SIGNS if re.search(pattern, text)), _OTHER)


def in_words(error: BaseException, doing: str = "request") -> str:
    """The cause in one clause, with the library's own line."""
    return f"{_WORDS[kind_of(error)].format(doing=doing)} ({_shortened(first_line(error))})"


def refused(error: BaseException, address: str, doing: str) -> DimbaError:
    """The refusal of a launch whose store cannot be used."""
    kind = kind_of(error)
    return BadInput(f"{address}: {in_words(error, doing)}", _HINTS[kind], key=KEY)


def unreadable(error: BaseException, address: str) -> DimbaError:
    """The refusal of an address that is typed in a shell, without a spec."""
    kind = kind_of(error)
    return BadInput(f"{address}: {in_words(error, 'reading')}", _HINTS_HERE.get(kind, "correct the address"))


def no_protocol(protocol: str, error: Exception) -> DimbaError:
    """The refusal of an address whose protocol nothing here speaks."""
    package = _PACKAGES.get(protocol)
    if package is None:
        hint = "s3://, gs://, abfs:// and file:// need nothing else; others are those of fsspec"
        return BadInput(f"`{protocol}://` is unknown here ({_shortened(first_line(error))})", hint, key=KEY)
    if os.environ.get(ENV_PINS):
        hint = f"derive an image with {package} (docs/store.md shows how) and name it in `container.image`"
    else:
        hint = f"`{sys.executable} -m pip install {package}`"
    return BadInput(f"`{protocol}://` needs {package}, which is not installed where the job runs", hint, key=KEY)


def _shortened(text: str) -> str:
    text = re.sub(r"\s*\(Request ID: [^)]*\)", "", text)
    return text if len(text) <= 200 else f"{text[:200]}…"
