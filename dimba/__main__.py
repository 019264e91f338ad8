"""Makes `python -m dimba` the `dimba` command."""

from dimba.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
