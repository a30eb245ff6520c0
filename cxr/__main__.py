"""`python -m cxr`."""

from cxr.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
