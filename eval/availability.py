"""Finds tasks that cannot run here before the first one runs: hours later is too late to learn of a missing licence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets.config
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import DatasetInfo, HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from mteb.abstasks import AbsTask, AbsTaskRetrieval

SCRIPT = "needs a loading script, which datasets 4 and newer do not run"
_OFFLINE = (
    "not in the local cache and HF_HUB_OFFLINE is set: unset it, or copy the data with `mrl-text mirror` "
    "where there is a network"
)
_UNREACHABLE = "the hub cannot be reached: check the connection, or evaluate from a copy made with `mrl-text mirror`"
_TIMEOUT = 10.0
_THREADS = 8
_COMMIT = re.compile("[0-9a-f]{7,40}")

# for network trouble the hub library raises errors of its HTTP client; which client that is depends on its
# version, but its own errors always derive from the client's
_CLIENT_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
HUB_ERRORS: tuple[type[Exception], ...] = (
    _CLIENT_ERROR,
    ConnectionError,
    LocalEntryNotFoundError,
    FileMetadataError,
    HFValidationError,
    json.JSONDecodeError,
)
"""Errors that a call to the hub can raise, besides those of the local disk."""


def unavailable(tasks: Sequence[AbsTask]) -> dict[str, str]:
    """Find the tasks whose data cannot be had here.

    A folder, or data that datasets has prepared at the task's revision, needs no look-up. The hub is asked about the
    rest, once for each repository, and no further once it cannot be reached.

    A task that makes its own data would be reported as missing: leave it out.

    Returns:
        Task name -> why it cannot run, in a few words, with the fix; empty if all can. In the order of ``tasks``.
    """
    reasons: dict[str, str] = {}
    to_ask: dict[str, tuple[str, str]] = {}
    for task in tasks:
        name, dataset = task.metadata.name, task.metadata.dataset
        if dataset.get("trust_remote_code"):
            reasons[name] = SCRIPT
        elif Path(dataset["path"]).is_dir() or _is_prepared(task):
            continue
        elif constants.HF_HUB_OFFLINE:
            reasons[name] = _OFFLINE
        else:
            to_ask[name] = str(dataset["path"]), str(dataset["revision"])
    answers = _ask(list(dict.fromkeys(to_ask.values())))
    reasons |= {name: str(answers[key]) for name, key in to_ask.items() if key in answers}
    return {name: reasons[name] for task in tasks if (name := task.metadata.name) in reasons}


def look_up(path: str, revision: str, *, sizes: bool = False) -> DatasetInfo:
    """Ask the hub for the files of a data set, and whether this user may read them.

    ``path`` is the repository, ``organisation/name``, ``revision`` a commit, branch or tag. With ``sizes`` the answer
    has the size and checksum of every file.

    Raises:
        ValueError: the data set needs a loading script.
        PermissionError: gated, or the hub refuses access.
        FileNotFoundError: no such repository or revision, or a private one.
        ConnectionError: the hub cannot be reached.
        OSError: the hub answers with another error.
    """
    try:
        info = HfApi().dataset_info(path, revision=revision, files_metadata=sizes, timeout=_TIMEOUT)
        if info.gated:
            _try_file(path, info)
    except HUB_ERRORS as error:
        raise hub_error(error, path, revision) from error
    if any(file.rfilename == f"{path.rpartition('/')[2]}.py" for file in info.siblings or ()):
        raise ValueError(SCRIPT)
    return info


def _try_file(path: str, info: DatasetInfo) -> None:
    """Ask for the head of a data file: listing and card of a gated data set are open to everyone, data files are not.

    ``HfApi.auth_check`` is there for this, but waits without limit for an answer.
    """
    names = (file.rfilename for file in info.siblings or ())
    name = next((name for name in names if not name.startswith(".") and name != constants.REPOCARD_NAME), None)
    if name is not None:
        get_hf_file_metadata(hf_hub_url(path, name, repo_type="dataset", revision=info.sha), timeout=_TIMEOUT)


def hub_error(error: Exception, path: str, revision: str) -> OSError:
    """Put one of :data:`HUB_ERRORS` into a few words with the fix; which errors it returns, :func:`look_up` lists."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    kind: type[OSError] = FileNotFoundError
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/datasets/{path}"
        kind, words = PermissionError, f"gated: accept the terms at {page} and log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        words = f"the hub has no revision {revision} of {path}: another version of mteb may help"
    elif isinstance(error, RepositoryNotFoundError):
        words = f"{path} is not found or private: check the name, or log in with `hf auth login`"
    elif isinstance(error, HFValidationError):
        words = f"{path!r} does not name a data set on the hub"
    elif isinstance(error, HfHubHTTPError) and (status := error.response.status_code) in (401, 403):
        kind, words = PermissionError, f"the hub refuses access (status {status}): log in with `hf auth login`"
    elif isinstance(error, HfHubHTTPError):
        kind, words = OSError, f"the hub answers with status {status}: try again later"
    elif isinstance(error, OfflineModeIsEnabled):
        kind, words = ConnectionError, "HF_HUB_OFFLINE is set: unset it"
    elif isinstance(error, (_CLIENT_ERROR, ConnectionError)):
        kind, words = ConnectionError, _UNREACHABLE
    else:  # a page of a proxy or a hotel, for example
        kind, words = ConnectionError, f"what answers at {constants.ENDPOINT} is not the hub: check the connection"
    return kind(words)


def _ask(repositories: list[tuple[str, str]]) -> dict[tuple[str, str], Exception]:
    """Look up each (path, revision) and return those that cannot be read, with the reason."""
    lost: list[Exception] = []

    def ask(repository: tuple[str, str]) -> Exception | None:
        if lost:
            return lost[0]
        try:
            look_up(*repository)
        except (OSError, ValueError) as error:
            lost.extend([error] * isinstance(error, ConnectionError))
            return error
        return None

    # the first one alone: without a network this is one wait instead of one for each thread
    answers = [ask(repository) for repository in repositories[:1]]
    with ThreadPoolExecutor(_THREADS) as pool:
        answers += pool.map(ask, repositories[1:])
    pairs = zip(repositories, answers, strict=True)
    return {repository: answer for repository, answer in pairs if answer is not None}


def _is_prepared(task: AbsTask) -> bool:
    """Whether datasets loads the task's data, all of it and of the right revision, without a network.

    The hub's own cache does not count: datasets cannot load what was only downloaded without a network.
    """
    dataset = task.metadata.dataset
    prepared = _prepared_configurations(str(dataset["path"]), str(dataset["revision"]))
    subsets = list(task.hf_subsets) if task.metadata.is_multilingual else []
    if not isinstance(task, AbsTaskRetrieval):
        needed = {dataset["name"]} if "name" in dataset else set(subsets)
        return bool(prepared) and needed <= prepared
    needed = {f"{subset}-{part}" for subset in subsets for part in ("corpus", "queries", "qrels")}
    # without the hub mteb does not see that there are candidates to rerank or instructions, and goes on without them
    blind = any(name.endswith(("top_ranked", "instruction")) for name in prepared)
    return (needed or {"corpus", "queries", "default"}) <= prepared and not blind


def _prepared_configurations(path: str, revision: str) -> set[str]:
    """Names of the configurations that datasets has made tables of, from this revision.

    Without a network datasets takes the table made last, whatever revision is asked for: only that one counts.
    """
    organisation, _, name = path.rpartition("/")
    folder = f"{organisation}___" if organisation else ""
    root = Path(datasets.config.HF_DATASETS_CACHE) / f"{folder}{camelcase_to_snakecase(name)}"
    found = set()
    for configuration in root.glob("*"):
        tables = [info.parent for info in configuration.glob("*/*/dataset_info.json")]
        if tables:
            commit = max(tables, key=lambda table: table.stat().st_mtime).name
            # of a branch it is not recorded which commit it was
            if not _COMMIT.fullmatch(revision) or (_COMMIT.fullmatch(commit) and commit.startswith(revision)):
                found.add(configuration.name)
    return found
