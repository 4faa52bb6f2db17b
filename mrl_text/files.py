"""Where files live and how they are written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """Folder for what can be made again: ``$MRL_TEXT_CACHE``, else ``$XDG_CACHE_HOME/mrl-text``, else ``~/.cache``."""
    if chosen := os.environ.get("MRL_TEXT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrl-text"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a run after a crash, sees the whole of it or nothing.

    Args:
        path: the file; missing parent folders are made.
        content: its bytes.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older version of the file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
