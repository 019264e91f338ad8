"""The command line of `dimba export` as a value."""

import re
from dataclasses import dataclass, field

from dimba.common.errors import BadInput
from dimba.jobs.model_source import ModelRequest

MERGED, GGUF = "merged", "gguf"  # kinds, and the names of their folders
DTYPES = ("auto", "float32", "bfloat16", "float16")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is exported or checked, and where it goes."""

    model: str
    merged: bool = False
    gguf: str | None = None  # the type of the file
    dtype: str = "auto"
    out: str | None = None
    check: str | None = None  # the folder of an export; empty: the model's own
    hub: str | None = None
    public: bool = False
    where: ModelRequest = field(default_factory=ModelRequest)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The exports to make, in this order; a merged model if nothing else is asked for."""
        asked = (MERGED,) * self.merged + (GGUF,) * bool(self.gguf)
        return asked or (MERGED,)

    def require_sense(self) -> None:
        """Raises BadInput for flags that contradict each other."""
        if self.hub is not None and not _REPOSITORY.fullmatch(self.hub):
            raise BadInput(f"`{self.hub}` is no name of a repository", "give it as owner/name", key="--hub")
        if self.public and self.hub is None:
            raise BadInput("--public is for an upload", "name the repository with `--hub OWNER/NAME`", key="--public")
        if self.out and len(self.kinds) > 1:
            raise BadInput("--out is one folder", "export --merged and --gguf one after the other", key="--out")
        if self.hub and len(self.kinds) > 1:
            raise BadInput("--hub is one repository", "export --merged and --gguf one after the other", key="--hub")
        if self.check is not None and (self.hub or self.out or (self.merged and self.gguf)):
            raise BadInput("--check writes nothing", "leave out --out, --hub, and one of --merged and --gguf")
