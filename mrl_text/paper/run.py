"""One command that answers the paper's questions for a model, question by question."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrl_text import __version__
from mrl_text.adapt.texts import read_texts
from mrl_text.choices import Dtype
from mrl_text.files import check_writable, write_atomically
from mrl_text.models import ModelSource, find_model
from mrl_text.paper import ablation, adaptive, against, fewshot, interpolation, robustness, superclasses
from mrl_text.paper.experiment import FIT_STEPS, Experiment, Missing, Model
from mrl_text.paper.page import Question, write_page
from mrl_text.paper.tasks import read_tasks
from mrl_text.progress import progress_bar
from mrl_text.suggest import check_choice
from mrl_text.truncation import check_dims, halves

if TYPE_CHECKING:
    from mrl_text.eval.own_data import OwnData

logger = logging.getLogger(__name__)

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (against, interpolation, ablation, fewshot, robustness, superclasses, adaptive)
}
"""Name -> question, in the order of the page."""


def paper(
    model: str,
    output: str | Path,
    *,
    base: str | None = None,
    independent: Sequence[str] = (),
    mirror: str | Path | None = None,
    data: Sequence[str | Path] = (),
    read: Sequence[OwnData] = (),
    tasks: Sequence[str] | None = None,
    train: Sequence[str | Path] = (),
    train_limit: int = 10_000,
    questions: Sequence[str] | None = None,
    search: str | Path | None = None,
    classification: str | Path | None = None,
    dims: Sequence[int] | None = None,
    seeds: int = 3,
    cache: str | Path | None = None,
    batch_size: int = 64,
    device: str | None = None,
    dtype: Dtype = "float32",
    trust_remote_code: bool = False,
) -> Path:
    """Answer the questions of the Matryoshka paper (arXiv 2205.13147) for text and write a page with figures.

    Each question's answer is a JSON file in ``output``. One that is there, and was measured on the same models, data
    and settings, is not measured again, so that an interrupted call goes on where it was. What the data at hand
    cannot answer is left out, and the page says why.

    Args:
        model: folder, hub id or packaged model; a Matryoshka one.
        output: folder for ``README.md``, figures and answers.
        base: the control, cut to the same sizes; None is the base that the model names.
        independent: models trained for one size each.
        mirror: folder with copies of mteb's data sets.
        data: own files and folders, see :func:`mrl_text.eval.own_data.read_own_data`.
        read: own data that were read already.
        tasks: mteb tasks; None is :data:`mrl_text.paper.tasks.MIRROR_TASKS` where there is a mirror.
        train: files of texts to fit rotations and PCA on, see :func:`mrl_text.adapt.texts.read_texts`; none of the
            texts to evaluate may be in them.
        train_limit: texts to fit on, at most; of more a random part is taken.
        questions: some of :data:`QUESTIONS`; None is all.
        search, classification: result files for :mod:`mrl_text.paper.adaptive`.
        dims: sizes to measure; None is the trained ones. The full width is added.
        seeds: of fits and random dimensions.
        cache: folder of embeddings, as that of ``mrl-text eval``; None is the one that all commands share.
        batch_size, device, dtype: as for :func:`mrl_text.loading.cached`.
        trust_remote_code: allow code that comes with the models to run.

    Returns:
        The page.

    Raises:
        FileNotFoundError: a model, file or mirror that is not there.
        ValueError: an unknown question, no data, impossible sizes or counts, or malformed files.
    """
    chosen = [check_choice("question", name, QUESTIONS) for name in (QUESTIONS if questions is None else questions)]
    if seeds < 1 or train_limit < 1:
        raise ValueError(f"seeds and train_limit must be at least 1, got {seeds} and {train_limit}")
    source = find_model(model, trust_remote_code=trust_remote_code)
    control = _control(source, base)
    sizes = _sizes(source, control, dims)
    others = [find_model(one, trust_remote_code=trust_remote_code) for one in independent]
    for file, check in ((search, adaptive.read_tuning), (classification, adaptive.read_classification)):
        if file:
            check(Path(file))
    check_writable(Path(output), "choose another output folder")
    texts = _sample(read_texts(train), train_limit) if train else []
    found = read_tasks(mirror, data, tasks, read)
    from mrl_text.loading import cached, shared_folder

    place = Path(cache) if cache is not None else shared_folder()

    def opened(one: ModelSource) -> Model:
        vectors = cached(one, dtype=dtype, folder=place, batch_size=batch_size, device=device)
        return Model(one.label, one.revision, one.matryoshka_dims, vectors.embed)

    experiment = Experiment(
        opened(source),
        opened(control) if control else None,
        found,
        sizes,
        texts,
        list(map(opened, others)),
        seeds,
        Path(search) if search else None,
        Path(classification) if classification else None,
    )
    results, missing = _answers(experiment, chosen, Path(output), dtype)
    return write_page(Path(output), QUESTIONS.values(), experiment, results, missing, dtype=dtype)


def _answers(
    experiment: Experiment, chosen: Collection[str], folder: Path, dtype: str
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Measure what was chosen and is not there yet; returns all answers to these inputs, and what was left out."""
    results, missing = {}, {}
    with progress_bar(QUESTIONS.items(), unit="question") as bar:
        for name, question in bar:
            bar.set_description(name)
            file, inputs = folder / f"{name}.json", _inputs(experiment, question, dtype)
            if (known := _known(file, inputs)) is not None:
                results[name] = known
            elif name not in chosen:
                missing[name] = "not asked"
            else:
                try:
                    results[name] = question.measure(experiment)
                except Missing as reason:
                    missing[name] = str(reason)
                    continue
                answer = {"question": name, "inputs": inputs, "result": results[name]}
                write_atomically(file, (json.dumps(answer, indent=1) + "\n").encode())
    return results, missing


def _known(file: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The result in a file, if it was measured with these inputs; a damaged file counts as none."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        result: dict[str, Any] = kept["result"]
        return result if kept["inputs"] == inputs else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _inputs(experiment: Experiment, question: Question, dtype: str) -> dict[str, Any]:
    """What an answer depends on, by name and content and never by place."""
    train = hashlib.blake2b("\0".join(experiment.train).encode(), digest_size=8).hexdigest()
    files = {"search": experiment.search, "classification": experiment.classification}
    shown = {name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for name, file in files.items() if file}
    return {
        "mrl-text": __version__,
        "model": str(experiment.model),
        "base": str(experiment.base) if experiment.base else None,
        "independent": list(map(str, experiment.independent)),
        "data": experiment.tasks.fingerprints,
        "train": train if experiment.train else None,
        "dims": list(experiment.dims),
        "seeds": experiment.seeds,
        "fit_steps": FIT_STEPS,
        "dtype": dtype,
        "version": question.version,
        **(shown if question is adaptive.QUESTION else {}),
    }


def _control(source: ModelSource, base: str | None) -> ModelSource | None:
    if (name := base or source.base_model) is None:
        logger.warning("%s names no base: it is shown without a control (name one with --base)", source.name)
        return None
    return find_model(name, trust_remote_code=source.trust_remote_code)


def _sizes(source: ModelSource, control: ModelSource | None, dims: Sequence[int] | None) -> tuple[int, ...]:
    from mrl_text.loading import full_width

    width = full_width(source)
    if control is not None and (other := full_width(control)) != width:
        widths = f"{source.name} has {width} numbers and its base {control.name} {other}"
        raise ValueError(f"{widths}: they cannot be compared")
    return check_dims([*(dims or source.matryoshka_dims or halves(width)), width], width)


def _sample(texts: list[str], limit: int) -> list[str]:
    if len(texts) > limit:
        logger.info("%d of %d texts to fit on are used", limit, len(texts))
    return [texts[index] for index in np.sort(np.random.default_rng(0).permutation(len(texts))[:limit])]
