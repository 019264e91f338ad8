"""A small file, written, read, listed and removed: whether a store can be used, before a GPU is taken for it."""

import secrets

from dimba.common.errors import DimbaError
from dimba.trainers.store.filesystem import Store
from dimba.trainers.store.problems import refused
from dimba.trainers.store.writer import claim


def probe(store: Store, address: str, writer: str, *, anyway: bool) -> None:
    """Proves each right that an upload needs, and claims the run; raises BadInput with what to do."""
    name, data = f"probe-{secrets.token_hex(4)}", secrets.token_bytes(16)
    doing = "writing"
    try:
        store.put(name, data)
        doing = "reading"
        if store.read(name) != data:
            raise OSError("a file that was just written has another content")
        doing = "listing"
        if name not in store.sizes():
            raise OSError("a file that was just written is not listed")
        doing = "deleting"
        store.delete(name)
        doing = "writing"
        claim(store, writer, anyway=anyway)
    except DimbaError:
        raise
    except Exception as error:  # each library of a store has its own
        raise refused(error, address, doing) from None
