"""`python -m actorlite` is the command `actorlite`."""

from __future__ import annotations

from actorlite.cli import main

if __name__ == "__main__":
    main()
