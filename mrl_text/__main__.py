"""``mrl-text``, ``python -m mrl_text`` and ``torchrun -m mrl_text``: the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script; an interrupt while it still imports ends it quietly, too."""
    try:
        from mrl_text.cli import app
        from mrl_text.imports import pause_collection

        pause_collection()
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
