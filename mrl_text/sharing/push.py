"""Publish a model folder on the hub, in one commit, or write down what would be published."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors
from huggingface_hub.errors import HfHubHTTPError

from mrl_text.cards.measured import PICTURE, Measured, curve_text, measured_lines
from mrl_text.cards.metadata import check_names, eval_results, known_facts
from mrl_text.cards.privacy import public_json
from mrl_text.cards.published import CardFacts
from mrl_text.choices import CardChoice
from mrl_text.files import check_writable, write_atomically
from mrl_text.models import ModelSource, find_model
from mrl_text.sharing.files import is_stale, model_files

logger = logging.getLogger(__name__)

_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""Of the HTTP library that the hub's library is built on, which was exchanged between versions."""

_RESULTS = ("eval", "evaluation")
"""Folders beside a model in which an evaluation is looked for."""


@dataclass(frozen=True)
class Upload:
    """Everything to be published."""

    repo: str
    card: CardFacts
    files: dict[str, Path | bytes] = field(repr=False)
    """Path in the repository -> a file as it is, or content; all but the card."""
    left_out: dict[str, str]
    """What stays here -> why."""


def prepare(
    model: str | Path,
    repo: str,
    *,
    results: Sequence[str | Path] = (),
    license: str | None = None,
    languages: Sequence[str] = (),
) -> Upload:
    """Collect and check what is to be published; no network, and the model's folder is not changed.

    Args:
        model: folder of a run or of a saved model.
        repo: ``owner/name``.
        results: output folders of ``mrl-text eval``; empty takes ``eval/`` or ``evaluation/`` of the run, if it has
            scores of these weights.
        license: the hub's short name; None keeps what the card says.
        languages: ISO 639 codes; empty keeps what the card says.

    Raises:
        FileNotFoundError: no model, no weights or no results there.
        ValueError: a name that cannot be a repository, license or language; a model that is on the hub already;
            weights that are damaged, pickled or too large; results of other weights; a token or home folder in what
            would be public.
    """
    check_names(repo, license, languages)
    source = find_model(str(model))
    if not source.is_local:
        raise ValueError(f"{model} is no folder: save the model first, then push the folder")
    chosen, left_out = model_files(source)
    measured = _measured(source, repo, results)
    files = {name: _public(name, file) for name, file in chosen.items() if name != PICTURE or measured is None}
    if measured is not None:
        files[PICTURE] = measured.picture
    facts = known_facts(source, measured=measured is not None)
    facts |= {"license": license} if license else {}
    facts |= {"language": list(languages)} if languages else {}
    readme = Path(source.path) / "README.md"
    text = readme.read_text(encoding="utf-8-sig") if readme.is_file() else ""
    card = CardFacts(text, repo, source.matryoshka_dims, _prompts(source), facts, measured)
    card.compose()  # errors in the card show before anything is sent
    return Upload(repo, card, files, left_out)


def write_upload(upload: Upload, folder: str | Path) -> Path:
    """Write what would be published into a folder, which plain sentence-transformers can load.

    Args:
        upload: as of :func:`prepare`.
        folder: new or empty, or one that an earlier call wrote.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something else, is a file, or is the model's own.
        OSError: it cannot be written.
    """
    place = Path(folder)
    files = {**upload.files, "README.md": upload.card.compose().encode()}
    if any(isinstance(one, Path) and one.resolve() == (place / name).resolve() for name, one in files.items()):
        raise FileExistsError(f"{place} is the model's own folder: name an empty one")
    check_writable(place, "name an empty folder")
    if place.is_dir():
        there = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
        if other := sorted(there - files.keys()):
            raise FileExistsError(f"{place} holds {other[0]}, which is not part of this upload: name an empty folder")
    for name, content in files.items():
        if isinstance(content, bytes):
            write_atomically(place / name, content)
        else:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content, place / name)
    return place


def push(
    upload: Upload,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
    prefer: CardChoice | None = None,
    api: HfApi | None = None,
) -> str:
    """Publish: create the repository if it is not there, send the files, then commit all of them at once.

    Until the commit the repository stays as it is, so a push that is killed leaves nothing half done. The next push
    does not send again what the hub has received. Files of others stay. Only weights of an earlier version go, in the
    same commit, because they would be loaded beside the new ones.

    Args:
        upload: as of :func:`prepare`.
        private: create the repository private.
        revision: branch, created if it is not there; None is ``main``.
        message: of the commit.
        create_pr: open a pull request instead of committing to the branch.
        prefer: whose words stay where the card was changed on the hub, see :meth:`CardFacts.compose`.
        api: the hub; None is the one that ``HF_ENDPOINT`` and ``HF_TOKEN`` name.

    Returns:
        URL of the commit, or of the pull request.

    Raises:
        PermissionError: not logged in, or no right to write there.
        ConnectionError: the hub cannot be reached, or stopped answering.
        ValueError: a card that was changed on the hub or that the hub refuses; a public repository with ``private``;
            a repository that changed in between.
    """
    api, repo = api or HfApi(), upload.repo
    with _plain_errors(api.endpoint, repo):
        api.whoami()  # before a repository is created without a token that could fill it
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(f"{repo} is there and public: make it private in its settings, or leave out --private")
        if revision is not None and not create_pr:
            api.create_branch(repo, branch=revision, exist_ok=True)
        info = api.model_info(repo, revision=revision)
        there = {sibling.rfilename for sibling in info.siblings or []}
        card = upload.card.compose(_card_on(api, repo, info.sha) if "README.md" in there else None, prefer)
        files: dict[str, Path | bytes] = {**upload.files, "README.md": card.encode()}
        if stale := sorted(name for name in there if is_stale(name, set(files))):
            logger.info("weights of an earlier version are removed: %s", ", ".join(stale))
        additions = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        commit = api.create_commit(
            repo,
            [*additions, *map(CommitOperationDelete, stale)],
            revision=revision,
            create_pr=create_pr,
            commit_message=message or f"Upload {repo.partition('/')[2]} with mrl-text",
            parent_commit=info.sha,  # refused if somebody else committed since the card was read
        )
        return str(commit.pr_url or commit.commit_url)


@contextmanager
def _plain_errors(endpoint: str, repo: str) -> Iterator[None]:
    """The hub's errors as errors of ours that say what to do."""
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise PermissionError(_LOGIN) from None
    except errors.OfflineModeIsEnabled:
        raise ConnectionError("HF_HUB_OFFLINE is set, and a push needs the hub: unset it, or use --dry-run") from None
    except HfHubHTTPError as error:
        raise _in_words(error, repo) from error
    except (_HTTP_ERROR, RuntimeError) as error:  # the hub's library wraps a failed upload in RuntimeError
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, HfHubHTTPError):
            raise _in_words(cause, repo) from error
        if not isinstance(cause, (_HTTP_ERROR, OSError)):
            raise
        raise ConnectionError(f"{endpoint} stopped answering ({cause}): nothing was committed, push again") from error


_LOGIN = "not logged in to the hub: run `hf auth login`, or set HF_TOKEN to a token with write access"


def _card_on(api: HfApi, repo: str, sha: str | None) -> str | None:
    try:
        return Path(api.hf_hub_download(repo, "README.md", revision=sha)).read_text(encoding="utf-8-sig")
    except errors.EntryNotFoundError:
        return None


def _in_words(error: HfHubHTTPError, repo: str) -> Exception:
    status = error.response.status_code if error.response is not None else 0
    said = error.server_message or ""
    if status == 401 and not isinstance(error, errors.RepositoryNotFoundError):
        return PermissionError(f"the hub does not accept the token: {_LOGIN.partition(': ')[2]}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(f"{repo} has no such branch: a pull request needs one that is there")
    if status in (401, 403, 404):
        return PermissionError(f"no right to write to {repo}: {said or 'ask its owner, or use a token that may write'}")
    if status in (409, 412):
        return ValueError(f"{repo} changed while this was sent, nothing was committed: push again. {said}".rstrip())
    if status == 429 or status >= 500:
        return ConnectionError(f"the hub answered {status}, nothing was committed: push again later. {said}".rstrip())
    return ValueError(f"the hub refused the upload ({status}): {said or error}")


def _measured(source: ModelSource, repo: str, folders: Sequence[str | Path]) -> Measured | None:
    given = list(folders)
    if not given:
        run = Path(source.path).resolve()
        places = [place / name for place in (run, run.parent) for name in _RESULTS]
        folders = [place for place in places if (place / "scores.parquet").is_file()][:1]
        if not folders:
            return None
    from mrl_text.eval.figures import draw_curve
    from mrl_text.eval.leaderboard import load_results

    results = load_results(folders)
    try:
        own, controls = measured_lines(source, results)
    except ValueError as error:
        if given:
            raise
        logger.warning("%s is left aside: %s", folders[0], error)
        return None
    results = results.only([own, *controls])
    for line in results.lines:
        results.labels[line] = results.labels[line].replace(own.label, repo.partition("/")[2], 1)
    with tempfile.TemporaryDirectory() as folder:
        picture = next(file for file in draw_curve(results, Path(folder)) if file.suffix == ".png").read_bytes()
    choice = results.recommend(own, keep=0.99)
    dim = choice.cell.dim if choice is not None and choice.cell.dim < choice.full.dim else None
    text = curve_text(results, own, controls, picture=True)
    return Measured(text, picture, tuple(eval_results(results, own)), dim)


def _public(name: str, file: Path) -> Path | bytes:
    if file.suffix != ".json" or name.endswith(".index.json"):
        return file
    before = file.read_bytes()
    return file if (after := public_json(name, before)) == before else after


def _prompts(source: ModelSource) -> dict[str, str]:
    file = Path(source.path) / "config_sentence_transformers.json"
    config: Any = json.loads(file.read_bytes()) if file.is_file() else {}
    prompts = config.get("prompts") if isinstance(config, dict) else None
    return {str(name): str(text) for name, text in prompts.items()} if isinstance(prompts, dict) else {}
