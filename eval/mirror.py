"""Copies the data sets that tasks need, for machines without a network, and checks the copy before it is used."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetInfo, snapshot_download

from mrl_text.files import write_atomically
from mrl_text.progress import progress_bar

from .availability import HUB_ERRORS, SCRIPT, hub_error, look_up

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

MANIFEST = "mirror.json"
"""Name of the file in a mirror that says what was copied; one entry for each data set."""

_TOOL_FOLDER = (".cache", "huggingface")  # the download's own notes, with which it continues after an interruption


@dataclass
class _Repository:
    """A data set on the hub and the tasks that need it."""

    path: str
    revision: str
    tasks: list[str] = field(default_factory=list)

    def wrap(self, error: Exception) -> Exception:
        """Return the same error with the name of the data set in its message."""
        return type(error)(f"{self.tasks[0]}: {self.path} at revision {self.revision} cannot be copied: {error}")


def mirror_tasks(tasks: Sequence[AbsTask], folder: str | Path) -> dict[str, Path]:
    """Copy the data sets that tasks need from the hub, each at the revision its task names.

    The download begins only when the hub has every file and the disk has room for all of them. Files that are already
    there and intact are kept, so an interrupted copy continues where it stopped. Files are
    checked against the sizes and checksums that the hub states, and ``folder/mirror.json`` records them.

    Returns:
        Data set path as in the task -> its folder in the mirror, ``folder/<organisation>/<name>``.

    Raises:
        ValueError: two tasks need different revisions of one data set, a data set needs a loading script, the
            folder has files of something else, or its manifest cannot be read.
        FileNotFoundError: the hub does not have the data set or the revision, or shows it only to others.
        OSError: a file where the folder should be, not enough room on the disk, an incomplete download, or as
            :func:`.availability.look_up`.
    """
    root = Path(folder).expanduser()
    if root.is_file():
        raise FileExistsError(f"{root} is a file: name a folder for the copies")
    repositories = _repositories(tasks)
    manifest = _read_manifest(root)
    listings: dict[str, DatasetInfo] = {}
    for path, repository in repositories.items():
        entry = manifest.get(path)
        if entry is not None and _problem(root / path, entry, repository.revision) is None:
            entry["tasks"] = sorted({*entry["tasks"], *repository.tasks})
            continue
        try:
            listings[path] = look_up(path, repository.revision, sizes=True)
        except (OSError, ValueError) as error:
            raise repository.wrap(error) from error
    _check_room(root, listings)
    with progress_bar(listings.items(), desc="Copying", unit="data set", disable=not listings) as bar:
        for path, listing in bar:
            bar.set_postfix_str(path)
            _copy(repositories[path], listing, root, manifest)
    _write_manifest(root, manifest)
    return {path: root / path for path in repositories}


def check_mirror(folder: Path, dataset: Mapping[str, Any]) -> None:
    """Check that a mirror has what a task needs, unchanged since it was copied.

    Every file is read once in a process and not again until it changes. A data set that was copied by hand has no
    entry in the manifest to compare with: its folder only has to exist.

    ``dataset`` is ``task.metadata.dataset``; its path may be that of the hub or the one inside the mirror ``folder``.

    Raises:
        FileNotFoundError: the mirror has no such data set.
        ValueError: another revision, an unfinished copy, or a file that is missing, changed or not of the data set.
    """
    manifest = _read_manifest(folder)
    path = Path(dataset["path"])
    if path.as_posix() not in manifest and path.is_relative_to(folder):
        path = path.relative_to(folder)
    local = folder / path
    if not local.is_dir():
        raise FileNotFoundError(f"the mirror {folder} has no data set {path}: copy it with `mrl-text mirror`")
    entry = manifest.get(path.as_posix())
    if entry is None:
        return
    if problem := _problem(local, entry, str(dataset["revision"])):
        task = ", ".join(entry["tasks"])
        raise ValueError(f"{local} {problem}; run `mrl-text mirror` again for {task} and this mirror")


def _repositories(tasks: Sequence[AbsTask]) -> dict[str, _Repository]:
    """Dataset path -> what to copy."""
    found: dict[str, _Repository] = {}
    for task in tasks:
        name, dataset = task.metadata.name, task.metadata.dataset
        repository = found.setdefault(dataset["path"], _Repository(dataset["path"], str(dataset["revision"])))
        if repository.revision != str(dataset["revision"]):
            raise ValueError(
                f"{repository.tasks[0]} needs {repository.path} at revision {repository.revision}, {name} needs it at "
                f"{dataset['revision']}: a mirror holds one revision, copy them into two folders"
            )
        if name not in repository.tasks:
            repository.tasks.append(name)
        if dataset.get("trust_remote_code"):
            raise repository.wrap(ValueError(SCRIPT))
    return found


def _copy(repository: _Repository, listing: DatasetInfo, root: Path, manifest: dict[str, Any]) -> None:
    """Download one data set, compare it with the hub's listing and enter it into the manifest."""
    local = root / repository.path
    expected = {file.rfilename: file for file in listing.siblings or ()}
    before = manifest.get(repository.path) or {}
    for name, file in _files(local).items():
        if name in (before.get("files") or {}) and name not in expected:  # left from the revision that was here
            file.unlink()
    # no files yet: a reader of an interrupted copy sees that it is not finished
    entry: dict[str, Any] = {"revision": repository.revision, "tasks": sorted(repository.tasks), "files": None}
    manifest[repository.path] = entry
    _write_manifest(root, manifest)
    _download(repository, listing, local)
    files = {name: {"size": file.stat().st_size, "sha256": _checksum(file)} for name, file in _files(local).items()}
    for name, stated in expected.items():
        size, checksum = stated.size, stated.lfs.sha256 if stated.lfs else None
        here = files.get(name, {"size": None, "sha256": None})
        if here["size"] is None or size not in (None, here["size"]) or checksum not in (None, here["sha256"]):
            (local / name).unlink(missing_ok=True)  # else the next download takes it for done
            raise repository.wrap(OSError(f"{name} is not what the hub states: run it again"))
    entry["files"] = {name: files[name] for name in sorted(expected)}
    if problem := _problem(local, entry, repository.revision):
        raise repository.wrap(ValueError(f"{local} {problem}: remove it or choose another folder"))
    shutil.rmtree(local.joinpath(*_TOOL_FOLDER), ignore_errors=True)  # would vouch for files that change later
    parent = local / _TOOL_FOLDER[0]
    if parent.is_dir() and not any(parent.iterdir()):
        parent.rmdir()
    _write_manifest(root, manifest)


def _download(repository: _Repository, listing: DatasetInfo, local: Path) -> None:
    try:
        snapshot_download(repository.path, repo_type="dataset", revision=listing.sha, local_dir=local)
    except HUB_ERRORS as error:
        raise repository.wrap(hub_error(error, repository.path, repository.revision)) from error
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's own words are the clearest
            raise
        raise repository.wrap(OSError(f"the download failed ({error}): run it again")) from error


def _problem(local: Path, entry: Mapping[str, Any], revision: str) -> str | None:
    """What is wrong with a copy, or None."""
    if entry["revision"] != revision:
        return f"holds revision {entry['revision']}, but {revision} is needed"
    if entry["files"] is None:
        return "was not copied to the end"
    present = _files(local)
    for name, stated in entry["files"].items():
        if name not in present:
            return f"lacks {name}"
        if present[name].stat().st_size != stated["size"] or _checksum(present[name]) != stated["sha256"]:
            return f"has a changed {name}"
    for name in present:  # datasets would read it with the rest; it ignores names that start with a dot
        if name not in entry["files"] and not any(part.startswith(".") for part in Path(name).parts):
            return f"has {name}, which is not of the data set"
    return None


def _check_room(root: Path, listings: Mapping[str, DatasetInfo]) -> None:
    """Raise if the disk has less room than the hub states for the files that are not there."""
    stated = [
        (root / path / file.rfilename, file.size) for path, one in listings.items() for file in one.siblings or ()
    ]
    needed = sum(size or 0 for file, size in stated if not (file.is_file() and file.stat().st_size == size))
    existing = next(parent for parent in (root.resolve(), *root.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(
            f"{root} has room for {free / 1e9:.3f} GB, but {needed / 1e9:.3f} GB are to be copied: make room, choose "
            "another folder or fewer tasks"
        )


def _files(local: Path) -> dict[str, Path]:
    """Relative name -> file, without what the download keeps for itself."""
    found = {path.relative_to(local): path for path in sorted(local.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in found.items() if name.parts[:2] != _TOOL_FOLDER}


def _checksum(file: Path) -> str:
    return _sha256(file.resolve(), file.stat().st_size, file.stat().st_mtime_ns)


@functools.cache
def _sha256(file: Path, size: int, mtime_ns: int) -> str:  # size and time tell versions apart in the cache
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_manifest(root: Path) -> dict[str, Any]:
    """The manifest; empty if there is none."""
    file = root / MANIFEST
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        for entry in manifest.values():
            if not isinstance(entry["revision"], str) or not isinstance(entry["tasks"], list) or "files" not in entry:
                raise TypeError(entry)
        return dict(manifest)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not the manifest of a mirror: delete it and run `mrl-text mirror` again"
        ) from error


def _write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    write_atomically(root / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
