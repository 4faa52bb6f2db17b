"""Where files live and how they are written."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout


def cache_dir() -> Path:
    """Folder for what can be made again: ``$MRL_TEXT_CACHE``, else ``$XDG_CACHE_HOME/mrl-text``, else ``~/.cache``."""
    if chosen := os.environ.get("MRL_TEXT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrl-text"


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file so that a reader, or a run after a crash, sees the whole of it or nothing.

    Args:
        path: the file; missing parent folders are made.
        content: its bytes.
        private: nobody but its owner may read it (mode 0600).

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
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(file: Path) -> Any:
    """What a JSON file of ours holds.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged; the file is named.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}: bring it back, or begin anew in another folder") from None


def peek_json(file: Path) -> Any:
    """What a JSON file of somebody holds; None where it is not there or cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def hold(folder: Path) -> AcquireReturnProxy:
    """Become the one process that writes into a folder, which is made where it is missing.

    Returns:
        The lock, held: ``with hold(folder):``, or ``.lock.release()`` later. It is the operating system's, so it ends
        with the process, however that ends; the file ``.lock`` stays.

    Raises:
        ValueError: another process holds it; the error says which, where the system lets it be read.
        OSError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        holder = peek_json(folder / ".lock")
        who = "another process"
        if isinstance(holder, dict) and holder.keys() == {"pid", "host"}:
            who = f"process {holder['pid']} on {holder['host']}"
        raise ValueError(f"{who} is writing into {folder}: wait until it ends, or choose another folder") from None
    except OSError as error:
        raise type(error)(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
    with contextlib.suppress(OSError):  # Windows lets nobody else read or write a locked file
        (folder / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}), encoding="utf-8")
    return held


def holds_files(folder: Path) -> bool:
    """Whether a folder has files of somebody; a lock and other dot files say nothing, as a failed start leaves them."""
    return folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())


def check_replaceable(folder: Path, marker: str | None, what: str) -> None:
    """Refuse an output folder that holds something else than what is about to be written.

    Args:
        folder: may be missing, empty, or hold ``marker``.
        marker: file or folder by which an earlier result is known; None replaces nothing.
        what: that result, for the error, such as ``"adapted model"``.

    Raises:
        FileExistsError: it is a file, or it holds files without ``marker``.
        OSError: nothing can be written beside it.
    """
    check_writable(folder.absolute().parent, f"choose another folder for the {what}")
    if not folder.is_file() and not holds_files(folder):
        return
    if marker is None:
        raise FileExistsError(f"{folder} has files already: choose another folder for the {what}")
    if not (folder / marker).exists():
        raise FileExistsError(f"{folder} is there and holds no {what}: choose another folder")


def check_writable(folder: Path, fix: str) -> None:
    """Refuse a folder that cannot be made or written, before anything is computed for it; makes nothing.

    Args:
        folder: may be missing.
        fix: what the user can do instead, for the error.

    Raises:
        FileExistsError: it is a file, or lies in one.
        OSError: nothing can be written there.
    """
    place = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not place.is_dir():
        raise FileExistsError(f"{folder} cannot be a folder, {place} is a file: {fix}")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}): {fix}") from error


@contextlib.contextmanager
def replaced_folder(folder: Path, marker: str | None, what: str) -> Iterator[Path]:
    """Fill a new folder that takes the place of ``folder`` when the block ends; an error leaves all as it was.

    Args:
        folder: as for :func:`check_replaceable`, which is asked again before anything is replaced.
        marker: likewise.
        what: likewise.

    Yields:
        An empty folder beside it, on the same disk.

    Raises:
        FileExistsError: as for :func:`check_replaceable`.
        OSError: the place cannot be written.
    """
    target = folder.resolve()
    check_replaceable(target, marker, what)
    partial = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.replaced")
    for left in (partial, old):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        check_replaceable(target, marker, what)  # nobody used the name in the meantime
        if target.exists():
            target.rename(old)  # a kill between the two lines loses nothing
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        from safetensors import SafetensorError  # which knows no OSError: a full disk, say

        if isinstance(error, SafetensorError):
            raise OSError(f"the {what} cannot be written to {target}: {error}") from error
        raise
