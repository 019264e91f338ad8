"""The wizard: six steps from nothing to a job spec, and to its launch. The same as `dimba wizard`.

python scripts/finetuning/finetune_interactive.py
"""

import sys

try:
    from dimba.cli import main
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: {missing.name} is not installed for {sys.executable}\n\n"
        "hint: `make demo` sets up .venv; then `.venv/bin/python scripts/finetuning/finetune_interactive.py`"
    )

if __name__ == "__main__":
    sys.exit(main(["wizard", *sys.argv[1:]]))
