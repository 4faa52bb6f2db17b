"""``python -m mrl_text`` and ``torchrun -m mrl_text``: the command line."""

from __future__ import annotations

from mrl_text.cli import main

if __name__ == "__main__":
    main()
