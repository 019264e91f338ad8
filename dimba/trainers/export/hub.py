"""The Hugging Face Hub as the place of an export: what the token may do is known before any work, then one commit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from dimba.common.errors import BadInput, DimbaError, HostCannot, first_line

if TYPE_CHECKING:
    from dimba.trainers.export.agreement import Progress

TOKEN = "HF_TOKEN"  # noqa: S105  # a variable's name
_KEY = "--hub"
_MAKE = "make one with write access at https://huggingface.co/settings/tokens, and put it into HF_TOKEN"
_WRITERS = ("admin", "write", "contributor")  # roles in an organisation
_WRITE = "repo.write"
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_TRIES, _WAIT = 4, 2.0  # seconds before the second try; then twice as long each time

Result = TypeVar("Result")


@dataclass(frozen=True)
class Repository:
    """A repository to upload to."""

    name: str  # owner/name
    public: bool = False

    @property
    def owner(self) -> str:
        """The user or organisation."""
        return self.name.partition("/")[0]

    @property
    def url(self) -> str:
        """Its page."""
        return f"{constants.ENDPOINT}/{self.name}"


def check_rights(repository: Repository) -> list[str]:
    """What the upload will do, as lines; it changes nothing.

    Raises:
        BadInput: there is no token, or it may not write there, or the repository is public and that was not asked for.
        HostCannot: the Hub does not answer.
    """
    token = os.environ.get(TOKEN, "")
    if not token:
        raise BadInput("there is no token for the Hub in HF_TOKEN", _MAKE, key=_KEY)
    api = HfApi(token=token)
    with _errors(repository):
        who = _again(api.whoami)
        if problem := _problem(who, repository):
            raise BadInput(problem, _MAKE, key=_KEY)
        found = _visibility(api, repository)
    if found is None:
        return [f"a new {'public' if repository.public else 'private'} repository: {repository.url}"]
    if found == "public" and not repository.public:
        hint = "give another name, make it private on the Hub, or give `--public` as well"
        raise BadInput(f"{repository.name} exists and is public", hint, key=_KEY)
    stays = ", and stays private" if found == "private" and repository.public else ""
    return [f"a new commit in {repository.url}, which is {found}{stays}"]


def _problem(who: Mapping[str, Any], repository: Repository) -> str:
    """Why this token may not write there; empty if it may."""
    user, owner = str(who.get("name")), repository.owner
    roles = {str(each.get("name")): str(each.get("roleInOrg") or "") for each in who.get("orgs") or ()}
    if owner != user and owner not in roles:
        return f"the token is {user}'s, who is no member of {owner}"
    if owner != user and roles[owner] and roles[owner] not in _WRITERS:
        return f"{user} may only read in {owner} (role {roles[owner]})"
    token = (who.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        return f"the token of {user} may only read"
    if token.get("role") == "fineGrained" and not _is_granted(token.get("fineGrained") or {}, repository):
        return f"the fine-grained token of {user} has no write access to {repository.name}"
    return ""


def _is_granted(fine: Mapping[str, Any], repository: Repository) -> bool:
    named = {repository.owner, repository.name}
    return any(
        _WRITE in (each.get("permissions") or ()) and (each.get("entity") or {}).get("name") in named
        for each in fine.get("scoped") or ()
    )


def _visibility(api: HfApi, repository: Repository) -> str | None:
    """`public` or `private`; None if the repository does not exist."""
    try:
        found = _again(lambda: api.repo_info(repository.name))
    except RepositoryNotFoundError:
        return None
    return "private" if found.private else "public"


def upload(folder: Path, repository: Repository, message: str, progress: Progress) -> str:
    """Upload the folder as one commit, and compare what lies there; returns the commit's page.

    Raises:
        BadInput, HostCannot: as `check_rights`, or the upload fails, which leaves the repository as it was.
    """
    api = HfApi(token=os.environ.get(TOKEN, ""))
    files = {str(each.relative_to(folder)): each.stat().st_size for each in folder.rglob("*") if each.is_file()}
    with _errors(repository):
        progress("uploading", 0, len(files))
        _again(lambda: api.create_repo(repository.name, private=not repository.public, exist_ok=True))
        commit = _again(lambda: api.upload_folder(repo_id=repository.name, folder_path=folder, commit_message=message))
        found = _again(lambda: api.repo_info(repository.name, files_metadata=True))
    sizes = {each.rfilename: each.size for each in found.siblings or ()}
    missing = [name for name, size in files.items() if sizes.get(name, size if name in sizes else None) != size]
    if missing:
        hint = "upload again; the commit before is still there"
        raise HostCannot(f"{missing[0]} on {repository.url} is not the file that was uploaded", hint, key=_KEY)
    progress("uploading", len(files), len(files))
    return str(getattr(commit, "commit_url", "") or repository.url)


def _again(request: Callable[[], Result]) -> Result:
    """The result of a request, which is repeated after failures of the network or of the Hub itself."""
    for number in range(_TRIES - 1):
        try:
            return request()
        except (OSError, HfHubHTTPError) as error:
            status = _status(error)
            if status is not None and status not in _TRANSIENT:
                raise
            time.sleep(_WAIT * 2**number)
    return request()


def _status(error: BaseException) -> int | None:
    answer = getattr(error, "response", None)
    return getattr(answer, "status_code", None)


@contextmanager
def _errors(repository: Repository) -> Iterator[None]:
    try:
        yield
    except DimbaError:
        raise
    except Exception as error:
        raise _translated(error, repository) from error


def _translated(error: Exception, repository: Repository) -> DimbaError:
    status, said = _status(error), _said(error)
    if status == 401:
        return BadInput(f"the Hub does not accept the token in HF_TOKEN{said}", _MAKE, key=_KEY)
    if status in (403, 404):
        return BadInput(f"the token may not write to {repository.name}{said}", _MAKE, key=_KEY)
    if status == 409:
        return BadInput(f"{repository.name} was changed meanwhile{said}", "run the command again", key=_KEY)
    if status == 413 or "quota" in said or "storage" in said.lower():
        return HostCannot(
            f"the Hub has no room for it{said}", "free space of that account, or use another one", key=_KEY
        )
    if status == 400:
        return BadInput(
            f"the Hub refuses the files of {repository.name}{said}", "correct that, and run it again", key=_KEY
        )
    why = said or f": {first_line(error)[:200]}"
    hint = "check the network, https://status.huggingface.co and HF_ENDPOINT, and run the command again"
    return HostCannot(f"{constants.ENDPOINT} does not answer as expected{why}", hint, key=_KEY)


def _said(error: Exception) -> str:
    """The Hub's own words, without the address, which may hold more than a reader needs."""
    words = getattr(error, "server_message", None)
    return f": {first_line(words)[:200]}" if words else ""
