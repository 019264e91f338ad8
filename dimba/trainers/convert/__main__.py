"""A conversion where the trainer runs: `python -P -m dimba.trainers.convert JSON`; prints its result as a JSON line."""

import json
import os
import sys
from pathlib import Path

from dimba.common.errors import DimbaError, HostCannot


def main(argv: list[str]) -> int:
    """Converts as the request says; returns the exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    request = json.loads(argv[0])
    tokenizer = Path(request["tokenizer"]) if request.get("tokenizer") else None
    try:
        print(json.dumps({"result": _converted(Path(request["file"]), Path(request["target"]), tokenizer)}), flush=True)
    except DimbaError as error:
        print(json.dumps({"error": error.as_json()}), flush=True)
        return error.exit_status
    return 0


def _converted(file: Path, target: Path, tokenizer: Path | None) -> dict[str, object]:
    from dimba.trainers.convert.run import convert
    from dimba.trainers.models.checkpoints import means_full_disk
    from dimba.trainers.models.saving import quiet_transformers

    quiet_transformers()
    try:
        return convert(file, target, tokenizer)
    except MemoryError:
        raise HostCannot("the memory is too small for the weights", "convert on a larger machine") from None
    except Exception as error:
        if isinstance(error, DimbaError) or not means_full_disk(error):
            raise
        raise HostCannot(f"the disk of {target.parent} is full", "free space on it") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
