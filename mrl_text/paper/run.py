"""One command that answers the paper's questions for a model, question by question."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from mrl_text import __version__
from mrl_text.adapt.texts import read_texts
from mrl_text.files import write_atomically
from mrl_text.models import ModelSource, find_model, peek_width
from mrl_text.paper import ablation, adaptive, against, fewshot, interpolation, robustness, superclasses
from mrl_text.paper.data import read_data
from mrl_text.paper.page import write_page
from mrl_text.paper.world import FIT_STEPS, Encoder, Missing, Question, World
from mrl_text.suggest import did_you_mean
from mrl_text.truncation import check_dims

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16"]
QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (against, interpolation, ablation, fewshot, robustness, superclasses, adaptive)
}
"""Name -> question, in the order of the page."""

TRAIN_TEXTS = 10_000


def paper(
    model: str,
    output: str | Path,
    *,
    base: str | None = None,
    independent: Sequence[str] = (),
    mirror: str | Path | None = None,
    data: Sequence[str | Path] = (),
    tasks: Sequence[str] | None = None,
    train: Sequence[str | Path] = (),
    train_limit: int = TRAIN_TEXTS,
    questions: Sequence[str] | None = None,
    search: str | Path | None = None,
    classification: str | Path | None = None,
    dims: Sequence[int] | None = None,
    seeds: int = 3,
    cache: str | Path | None = None,
    batch_size: int = 64,
    device: str | None = None,
    dtype: Dtype = "float32",
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
        data: own files and folders, see :func:`mrl_text.eval.own_data.own_task`.
        tasks: mteb tasks; None is :data:`mrl_text.paper.data.MIRROR_TASKS` where there is a mirror.
        train: files of texts to fit rotations and PCA on, see :func:`mrl_text.adapt.texts.read_texts`; none of the
            texts to evaluate may be in them.
        train_limit: texts to fit on, at most; of more a random part is taken.
        questions: some of :data:`QUESTIONS`; None is all.
        search: result file for :mod:`mrl_text.paper.adaptive`.
        classification: the same, for classification.
        dims: sizes to measure; None is the trained ones. The full width is added.
        seeds: of fits and random dimensions.
        cache: folder of embeddings, laid out as that of ``mrl-text eval``; None is one in the cache folder.
        batch_size: texts per forward pass.
        device: where to encode; None is the best there is.
        dtype: what the models compute in.

    Returns:
        The page.

    Raises:
        FileNotFoundError: a model, file or mirror that is not there.
        ValueError: an unknown question, no data, impossible sizes or counts, or malformed files.
    """
    chosen = _chosen(questions)
    if seeds < 1 or train_limit < 1:
        raise ValueError(f"seeds and train_limit must be at least 1, got {seeds} and {train_limit}")
    from mrl_text.loading import shared_folder

    source = find_model(model)
    control = _control(source, base)
    sizes = _sizes(source, control, dims)
    others = [find_model(one) for one in independent]
    files = {name: Path(one) for name, one in (("search", search), ("classification", classification)) if one}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(f"no result file at {file}")
    texts = _sample(read_texts(train), train_limit) if train else []
    found = read_data(mirror, data, tasks)
    folder = Path(cache) if cache is not None else shared_folder()
    encoder = partial(_encoder, folder=folder, batch_size=batch_size, device=device, dtype=dtype)
    world = World(
        encoder(source), encoder(control) if control else None, found, sizes, texts, [encoder(one) for one in others],
        seeds, files.get("search"), files.get("classification"),
    )  # fmt: skip
    results, missing = _answers(world, chosen, Path(output), _given(world, dtype))
    return write_page(Path(output), list(QUESTIONS.values()), world, results, missing, dtype=dtype)


def _answers(
    world: World, chosen: Sequence[Question], folder: Path, given: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Measure what was chosen and is not there yet; returns all answers to these inputs, and what was left out."""
    results, missing = {}, {}
    with tqdm(QUESTIONS.values(), unit="question", dynamic_ncols=True) as bar:
        for question in bar:
            bar.set_description(question.name)
            inputs = {**given, "version": question.version, **_files(question, world)}
            kept = read_answer(folder, question.name, inputs)
            if kept is not None:
                results[question.name] = kept
            elif question not in chosen:
                missing[question.name] = "not asked"
            else:
                try:
                    results[question.name] = question.measure(world)
                except Missing as reason:
                    missing[question.name] = str(reason)
                    continue
                answer = {"question": question.name, "inputs": inputs, "result": results[question.name]}
                write_atomically(folder / f"{question.name}.json", (json.dumps(answer, indent=1) + "\n").encode())
    return results, missing


def read_answer(folder: Path, name: str, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a question, if it was measured with these inputs; a damaged file counts as none."""
    try:
        kept = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        result: dict[str, Any] = kept["result"]
        return result if kept["inputs"] == dict(inputs) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _given(world: World, dtype: str) -> dict[str, Any]:
    """What an answer depends on, by name and content and never by place."""
    return {
        "mrl-text": __version__,
        "model": f"{world.model.label} {world.model.revision}",
        "base": f"{world.base.label} {world.base.revision}" if world.base else None,
        "independent": [f"{one.label} {one.revision}" for one in world.independent],
        "data": world.data.fingerprints,
        "train": hashlib.blake2b("\0".join(world.train).encode(), digest_size=8).hexdigest() if world.train else None,
        "dims": list(world.dims),
        "seeds": world.seeds,
        "fit_steps": FIT_STEPS,
        "dtype": dtype,
    }


def _files(question: Question, world: World) -> dict[str, str]:
    if question is not adaptive.QUESTION:
        return {}
    files = {"search": world.search, "classification": world.classification}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for name, file in files.items() if file}


def _chosen(questions: Sequence[str] | None) -> list[Question]:
    for name in questions or ():
        if name not in QUESTIONS:
            raise ValueError(f"no question is named {name!r}{did_you_mean(name, QUESTIONS)}")
    return [question for name, question in QUESTIONS.items() if questions is None or name in questions]


def _control(source: ModelSource, base: str | None) -> ModelSource | None:
    name = base or source.base_model
    if name is None:
        logger.warning("%s names no base: it is shown without a control (name one with --base)", source.name)
        return None
    return find_model(name)


def _sizes(source: ModelSource, control: ModelSource | None, dims: Sequence[int] | None) -> tuple[int, ...]:
    width = peek_width(source)
    if width is None:
        raise ValueError(f"{source.name} does not tell how wide its vectors are")
    if control is not None and (other := peek_width(control)) != width:
        raise ValueError(
            f"{source.name} has {width} numbers and its base {control.name} {other}: they cannot be compared"
        )
    return check_dims([*(dims or source.matryoshka_dims or _halves(width)), width], width)


def _halves(width: int) -> list[int]:
    return [size for shift in range(6) if (size := width >> shift) >= 8]


def _sample(texts: list[str], limit: int) -> list[str]:
    if len(texts) <= limit:
        return texts
    return [texts[index] for index in np.sort(np.random.default_rng(0).permutation(len(texts))[:limit])]


def _encoder(source: ModelSource, *, folder: Path, batch_size: int, device: str | None, dtype: Dtype) -> Encoder:
    from mrl_text.loading import cached

    cache = cached(source, dtype=dtype, folder=folder, batch_size=batch_size, device=device)
    return Encoder(source.label, source.revision, source.matryoshka_dims, cache.embed)
