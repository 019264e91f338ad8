"""What the engine says, in words that say what to do next."""

from dimba.common.errors import BadInput, DimbaError, EngineFailed, HostCannot
from dimba.common.project import project_root

_GPU_HINT = "install nvidia-container-toolkit and restart the engine, or set `gpus: none`; `dimba doctor` looks closer"
_BASE_HINT = (
    "name another with `container.base_image` or DIMBA_BASE_IMAGE; where no registry is reachable, "
    f"`sudo {project_root() / 'docker' / 'make-base-image'}` makes one"
)
_PROXY_HINT = f"{_BASE_HINT}; the engine itself pulls, through the `proxies` of /etc/docker/daemon.json"

# (part of the engine's words, kind, what it means, what to do)
_MEANINGS: tuple[tuple[str, type[DimbaError], str, str], ...] = (
    ("could not select device driver", HostCannot, "the engine has no GPU support", _GPU_HINT),
    ("nvidia-container-cli: initialization error", HostCannot, "the NVIDIA driver does not start", _GPU_HINT),
    (
        "unsatisfied condition: cuda",
        HostCannot,
        "the driver is too old for the image's CUDA",
        "update the driver, or name an older `container.base_image`",
    ),
    (
        "unresolvable CDI devices",
        HostCannot,
        "the engine knows no such CDI device",
        "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` writes them anew; DIMBA_GPU_PATH=nvidia goes without",
    ),
    ("no space left on device", HostCannot, "the disk is full", "`docker system df` shows what takes it"),
    ("manifest unknown", EngineFailed, "there is no such image", _BASE_HINT),
    ("not found: manifest", EngineFailed, "there is no such image", _BASE_HINT),
    ("pull access denied", EngineFailed, "there is no such image, or it is private", _BASE_HINT),
    ("no such host", EngineFailed, "the image registry cannot be reached", _PROXY_HINT),
    ("dial tcp", EngineFailed, "the image registry cannot be reached", _PROXY_HINT),
    ("Client.Timeout", EngineFailed, "the image registry cannot be reached", _PROXY_HINT),
    ("invalid reference format", BadInput, "that is not an image's name", "write it as name:tag"),
    ("No such image", EngineFailed, "the image is not there", _BASE_HINT),
)


def translated(said: str, doing: str) -> DimbaError:
    """The error for what the engine `said` while it was `doing` something."""
    for part, kind, meaning, hint in _MEANINGS:
        if part.lower() in said.lower():
            return kind(f"{doing}: {meaning} ({said.strip()})", hint)
    return EngineFailed(f"{doing}: {said.strip()}", "`dimba doctor` checks the engine")
