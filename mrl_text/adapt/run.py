"""From a model and texts, or from vectors alone, to an adaptation on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.adapt.adaptation import Adaptation, apply, matrix_file
from mrl_text.adapt.fitting import fit, fitted_dims, unit_rows
from mrl_text.adapt.judge import asking, kept_by_bytes
from mrl_text.adapt.texts import read_pairs, read_texts
from mrl_text.cards.sizes import describe_adaptation, rewrite
from mrl_text.choices import AdaptMethod
from mrl_text.encoding.folder import read_embeddings
from mrl_text.files import check_replaceable, replaced_folder, write_atomically
from mrl_text.loading import cached, check_device, full_width, load
from mrl_text.models import ModelSource, find_model
from mrl_text.suggest import check_choice
from mrl_text.tables import open_table
from mrl_text.tables.vectors import read_array

logger = logging.getLogger(__name__)

FACTS_FILE = "adaptation.json"
LIMIT = 100_000  # texts to fit on, at most: more make it slower, not better
_FEWEST = 500
_HELD_OUT = 4000  # texts to judge by, at most
_PACKAGES = ("mrl-text", "sentence-transformers", "torch", "transformers")


def adapt(
    model: str,
    texts: Sequence[str | Path],
    output: str | Path,
    *,
    method: AdaptMethod = "rotation",
    dims: Sequence[int] | None = None,
    pairs: str | Path | None = None,
    column: str | None = None,
    limit: int = LIMIT,
    seed: int = 0,
    batch_size: int = 64,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Make a frozen model Matryoshka and save it as an ordinary sentence-transformers model.

    The texts are encoded once. Their vectors stay in the cache folder, so that an interrupted call goes on where it
    was and another method starts at once. The encoder's weights do not change.

    Args:
        model: folder, hub id or packaged model.
        texts: files of texts like those the model is for, see :func:`mrl_text.tables.open_table`. ``linear`` does
            without.
        output: folder for the model; new, empty, or of an earlier adaptation, which is replaced.
        method: see :func:`mrl_text.adapt.fit`.
        dims: sizes to be good at; None is the powers of two from 16 up, and the width.
        pairs: table with the columns ``anchor`` and ``positive``, for ``linear``.
        column: of the tables, the column of texts; None takes every column that holds text.
        limit: texts to fit on, at most; of more a random part is taken.
        seed: of that part and of the fit.
        batch_size: texts of full length per forward pass, at most; of shorter ones more go together.
        device: where to encode; None is the best there is.
        trust_remote_code: allow code that comes with the model to run.

    Raises:
        FileExistsError: ``output`` holds something else.
        FileNotFoundError: the model or a file is not there.
        ValueError: an impossible size or limit, an unknown method, files that cannot be read, too few texts, or pairs
            where none are used or none where they are.
    """
    folder = Path(output)
    _check_method(method, pairs, needs_texts=True, texts=texts)
    if limit < _FEWEST:
        raise ValueError(f"limit is {limit} texts, {_FEWEST} is the least")
    check_replaceable(folder, FACTS_FILE, "adapted model")
    for file in texts:
        open_table(file)
    source = find_model(model, trust_remote_code=trust_remote_code)
    check_device(device)
    fitted_dims(full_width(source), dims)
    chosen, rows = _chosen_texts(texts, pairs, column, limit, seed)
    started = time.monotonic()
    vectors = embed(source, chosen, batch_size=batch_size, device=device)
    adaptation = _fitted(vectors, method=method, dims=dims, pairs=rows, seed=seed)
    facts = {
        "base_model": source.name,
        "revision": source.revision,
        **source.trusted,
        "files": [Path(file).name for file in (*texts, *([pairs] if pairs else []))],
        "seconds_with_encoding": round(time.monotonic() - started, 1),
        "versions": {name: version(name) for name in _PACKAGES},
    }
    _save(source, _with_facts(adaptation, facts), folder)
    return folder


def adapt_vectors(
    embeddings: str | Path,
    output: str | Path,
    *,
    method: AdaptMethod = "rotation",
    dims: Sequence[int] | None = None,
    pairs: str | Path | None = None,
    limit: int = LIMIT,
    seed: int = 0,
) -> Path:
    """Fit a matrix for vectors that exist already, of any provider; no model is needed.

    Args:
        embeddings: ``.npy`` (n, width), Parquet or Arrow with one column of lists, or a folder of ``mrl-text encode``.
        output: ``.npy`` file for the matrix; facts go to the ``.json`` beside it. Use it as ``vectors @ matrix``.
        method: see :func:`mrl_text.adapt.fit`.
        dims: sizes to be good at; None is the powers of two from 16 up, and the width.
        pairs: for ``linear``, ``.npy`` of whole numbers (m, 2): the rows of an anchor and of its positive.
        limit: vectors to fit on, at most; of more a random part is taken (``linear`` uses those of the pairs).
        seed: of that part and of the fit.

    Raises:
        FileExistsError: ``output`` is a file that no adaptation wrote.
        FileNotFoundError: a file is not there.
        ValueError: as for :func:`mrl_text.adapt.fit`, a file that cannot be read, or too few vectors.
    """
    file = matrix_file(output)
    _check_method(method, pairs, needs_texts=False)
    if file.exists() and not file.with_suffix(".json").exists():
        raise FileExistsError(f"{file} is there and was not written by an adaptation: choose another name")
    vectors, _ = read_embeddings(embeddings)
    rows = None if pairs is None else read_array(pairs)
    if len(vectors) < _FEWEST:
        raise ValueError(f"{embeddings} has {len(vectors)} vectors, {_FEWEST} is the least")
    if rows is None:
        vectors = vectors[_sample(len(vectors), limit, seed, "vectors")]
    adaptation = _fitted(vectors, method=method, dims=dims, pairs=rows, seed=seed)
    _with_facts(adaptation, {"files": [Path(embeddings).name], "versions": {"mrl-text": version("mrl-text")}}).save(
        file
    )
    return file


def _check_method(
    method: str, pairs: str | Path | None, *, needs_texts: bool, texts: Sequence[str | Path] = ()
) -> None:
    check_choice("method", method, AdaptMethod)
    if method == "linear" and pairs is None:
        raise ValueError("linear is trained on pairs, and none were named; rotation and pca need none")
    if method != "linear" and pairs is not None:
        raise ValueError(f"{method} has no use for pairs: leave them out, or name them as texts")
    if pairs is not None and texts:
        raise ValueError("linear is fitted on the texts of its pairs alone: leave the other texts out")
    if needs_texts and not texts and pairs is None:
        raise ValueError("no texts were named: give files of texts like those the model is for")


def _chosen_texts(
    files: Sequence[str | Path], pairs: str | Path | None, column: str | None, limit: int, seed: int
) -> tuple[list[str], np.ndarray | None]:
    """The texts to encode and, for ``linear``, which of them are pairs."""
    if pairs is None:
        texts = read_texts(files, column=column)
        if len(texts) < _FEWEST:
            raise ValueError(
                f"the files hold {len(texts)} different texts, {_FEWEST} is the least: a matrix fitted on so few knows"
                " them and nothing else"
            )
        return [texts[index] for index in _sample(len(texts), limit, seed, "texts")], None
    found = read_pairs(pairs)
    found = [found[index] for index in _sample(len(found), limit // 2, seed, "pairs")]
    texts = list(dict.fromkeys(text for pair in found for text in pair))
    place = {text: index for index, text in enumerate(texts)}
    return texts, np.array([[place[text] for text in pair] for pair in found])


def _sample(count: int, limit: int, seed: int, what: str) -> np.ndarray:
    """Which of them are used: all up to the limit, of more a random part in their order."""
    if count > limit:
        logger.info("%d of %d %s are used", limit, count, what)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def embed(source: ModelSource, texts: Sequence[str], *, batch_size: int = 64, device: str | None = None) -> np.ndarray:
    """Vectors of a frozen model, float32 (n, width), kept in the cache folder; errors of loading and embedding."""
    return cached(source, dtype="auto", device=device, batch_size=batch_size).embed(texts, role="document")


def _fitted(vectors: np.ndarray, *, pairs: np.ndarray | None, seed: int, **choice: Any) -> Adaptation:
    """Fit on most of the vectors and judge what few bytes keep of the others; pairs leave none over."""
    if pairs is not None:
        return fit(vectors, pairs=pairs, seed=seed, progress=True, **choice)
    unit = unit_rows(vectors)  # whose errors name positions among all
    order = np.random.default_rng(seed).permutation(len(unit))
    held_out, fitted = np.split(order, [min(_HELD_OUT, len(order) // 10)])
    logger.info("%d of %d texts are held out, to judge what few bytes keep", len(held_out), len(unit))
    adaptation = fit(unit[np.sort(fitted)], seed=seed, progress=True, **choice)
    judged = {"held_out": len(held_out), "queries": asking(len(held_out))}
    return _with_facts(adaptation, {**judged, "kept": kept_by_bytes(unit[held_out], adaptation)})


def _with_facts(adaptation: Adaptation, facts: dict[str, Any]) -> Adaptation:
    return replace(adaptation, facts={**adaptation.facts, **facts})


def _save(source: ModelSource, adaptation: Adaptation, folder: Path) -> None:
    model = apply(load(source, device="cpu"), adaptation)
    model.describe(name=folder.resolve().name, base_model=source.reference, adaptation=adaptation.method)
    with replaced_folder(folder, FACTS_FILE, "adapted model") as partial:
        model.save_pretrained(str(partial))
        facts = {
            name: adaptation.facts[name]
            for name in ("texts", "held_out", "queries", "kept")
            if name in adaptation.facts
        }
        facts |= {"base": source.name, "method": adaptation.method, "dims": adaptation.dims}
        rewrite(partial, lambda card: describe_adaptation(card, folder.resolve().name, **facts))
        write_atomically(partial / FACTS_FILE, adaptation.describe().encode())
