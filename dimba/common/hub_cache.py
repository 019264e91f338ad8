"""How the Hub names commits, and how its cache names the folders of repositories."""

import re

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str) -> bool:
    """Whether a revision is a complete commit, which never means another one."""
    return bool(_COMMIT.fullmatch(revision))


def folder_name(kind: str, repository: str) -> str:
    """The folder of a repository of the kind `models` or `datasets` in the cache."""
    return f"{kind}--{repository.replace('/', '--')}"
