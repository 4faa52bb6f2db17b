"""How far a push has come, noted beside the vectors that it sends."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_text.files import write_atomically
from mrl_text.search.open import without_password

logger = logging.getLogger(__name__)


class Journal:
    """Rows of an encoded folder that a store has confirmed.

    A note counts for one store, one state of the folder and one choice of columns. It is there while a push is
    unfinished only: a finished one that is called again sends everything again.

    Args:
        folder: encoded rows; the note is a small file in it.
        url: of the store; a password in it is not written down.
        keep: columns that are stored; none is all.

    Attributes:
        rows: from the first on, that are in the store for good.
    """

    def __init__(self, folder: Path, url: str | Path, keep: Sequence[str] = ()) -> None:
        self._keep = sorted(set(keep))
        self._url = without_password(url)
        name = hashlib.sha256(self._url.encode()).hexdigest()[:16]
        self._file = folder / f"push-{name}.json"
        self._manifest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
        self.rows: int = self._read().get("rows", 0)
        self._warned = False

    def write(self, rows: int) -> None:
        """Note that so many rows, from the first on, are in the store for good."""
        self.rows = rows
        note = {"store": self._url, "manifest": self._manifest, "keep": self._keep, "rows": rows}
        try:
            write_atomically(self._file, json.dumps(note, indent=1).encode())
        except OSError as error:
            if not self._warned:
                logger.warning("an interrupted push will begin anew: %s cannot be written (%s)", self._file, error)
            self._warned = True

    def remove(self) -> None:
        """The push is finished."""
        self.rows = 0
        try:
            self._file.unlink(missing_ok=True)
        except OSError:
            self._warned = True  # it could not be written either

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        wanted = {"store": self._url, "manifest": self._manifest, "keep": self._keep}
        fits = isinstance(known, dict) and all(known.get(name) == value for name, value in wanted.items())
        return known if fits else {}
