"""`python -m dimba` is the `dimba` command."""

from dimba.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
