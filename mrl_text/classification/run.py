"""From a model and labelled texts to a saved classifier, and from that to labels of new texts."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from mrl_text.amounts import FEW, count, hundredfold, too_few
from mrl_text.choices import Cost
from mrl_text.classification.adaptive import AdaptiveClassifier, Point, oracle
from mrl_text.classification.storage import FACTS_FILE, load_classifier, read_facts, save_classifier
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.eval.statistics import bootstrap_mean
from mrl_text.figures import PALETTE, new_figure, save_figure, size_axis, tidy
from mrl_text.files import check_replaceable, write_atomically
from mrl_text.loading import cached, check_device, full_width
from mrl_text.models import ModelSource, find_model
from mrl_text.suggest import check_columns
from mrl_text.tables import Problems, checked, open_table, read_columns
from mrl_text.tables.corpus import CorpusFile, Text
from mrl_text.tables.values import class_name
from mrl_text.tables.values import text as as_text
from mrl_text.truncation import check_dims

logger = logging.getLogger(__name__)

_TESTED_SHARE = 0.2
_PREDICTED = ("label", "probability", "dim")  # columns of labelled rows
_LABELLED = 4096  # rows at a time
_LOOKS = {"single": ("-", "o"), "cascade": ("--", "."), "oracle": ("", "*")}


@dataclass(frozen=True)
class Curve:
    """A line of the figure."""

    label: str
    points: list[Point]
    role: Literal["single", "cascade", "oracle"]


@dataclass(frozen=True, eq=False)
class Classification:
    """Results of :func:`classify` on the test texts, and the files that hold them.

    ``single``: size -> accuracy 0..1 of that head alone, for the kind of heads that was asked for. ``cascade``: with
    its chosen thresholds. ``oracle``: a perfect rule for stopping.
    """

    classifier: AdaptiveClassifier
    single: dict[int, float]
    cascade: Point
    oracle: Point
    files: tuple[Path, ...]
    tested: int
    """Texts that all of it was measured on."""


def classify(
    model: str,
    train: str | Path,
    output: str | Path,
    *,
    test: str | Path | None = None,
    text: str = "text",
    label: str = "label",
    dims: Sequence[int] | None = None,
    tied: bool = False,
    keep: float = 0.999,
    expected_dims: float | None = None,
    cost: Cost = "largest",
    seed: int = 0,
    batch_size: int = 64,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Classification:
    """Fit the cascade on labelled texts, test it, save it with ``results.json`` and ``curve.png``.

    Both kinds of heads are fitted for the figure; the saved classifier has the kind that was asked for. Every text is
    encoded once; the vectors stay in the cache folder.

    Args:
        model: folder, hub id or packaged model.
        train: a table (:func:`mrl_text.tables.open_table`) with a column of texts and one of labels.
        output: folder; new, empty, or of an earlier call.
        test: another such table; None sets a fifth of ``train`` apart.
        text, label: names of the columns.
        dims: sizes; None is :func:`~mrl_text.classification.nested.default_dims`.
        tied: save tied heads (MRL-E) instead of separate ones (MRL).
        keep: share of the full width's accuracy that is kept.
        expected_dims: instead of it, the expected size to stay within.
        cost: what is kept low, see :class:`AdaptiveClassifier`.
        seed: of the folds and of the fifth that is set apart.
        batch_size, device: as for :func:`mrl_text.loading.cached`.
        trust_remote_code: allow code that comes with the model to run.

    Raises:
        FileNotFoundError: a file or the model is not there.
        FileExistsError: ``output`` holds something else.
        ValueError: malformed tables, one label only, impossible sizes or options.
    """
    folder = Path(output)
    check_replaceable(folder, FACTS_FILE, "classifier")
    source = find_model(model, trust_remote_code=trust_remote_code)
    check_device(device)
    if dims is not None:
        check_dims(dims, full_width(source))
    if expected_dims is not None and not expected_dims >= min(dims or [1]):
        raise ValueError(f"expected_dims must be at least the smallest size, {min(dims or [1])}; got {expected_dims:g}")
    texts, labels = read_labelled(train, text, label)
    if test is None:
        texts, labels, test_texts, test_labels = _set_apart(texts, labels, seed)
    else:
        test_texts, test_labels = read_labelled(test, text, label)
    if len(set(labels)) < 2:
        raise ValueError(f"{train}: the only label to learn from is {labels[0]!r}; at least two are needed")
    if twice := len(set(texts) & set(test_texts)):
        logger.warning("%d of the test texts are among the training texts: their labels are known", twice)
    fitted = set(labels)
    if unseen := Counter(name for name in test_labels if name not in fitted):
        logger.warning(
            "%d of %d test texts have a label that no training text has (%s), and so count as wrong",
            unseen.total(),
            len(test_labels),
            ", ".join(f"{name!r} {times}" for name, times in unseen.most_common(5)),
        )
    classifiers = {
        kind: AdaptiveClassifier(dims, tied=kind, keep=keep, cost=cost, random_state=seed) for kind in (False, True)
    }
    classifiers[tied].check_parameters()
    vectors = _embed(source, [*texts, *test_texts], batch_size, device)
    known, tested = vectors[: len(texts)], vectors[len(texts) :]
    curves = []
    for kind, classifier in classifiers.items():
        classifier.fit(known, labels)
        if expected_dims is not None:
            classifier.choose(expected_dims=expected_dims)
        curves += _curves(classifier, tested, test_labels, "tied heads" if kind else "separate heads")
    chosen = classifiers[tied]
    alone, _, bound = curves[3 * tied : 3 * tied + 3]
    single = {dim: point.accuracy for dim, point in zip(chosen.dims_, alone.points, strict=True)}
    cascade = chosen.evaluate(tested, test_labels)
    versions = {"mrl-text": version("mrl-text")}
    facts = {"model": model, "revision": source.revision, **source.trusted, "versions": versions}
    save_classifier(chosen, folder, facts)
    results = {
        **facts,
        "train": Path(train).name,
        "test": Path(test).name if test else f"{_TESTED_SHARE:.0%} of train",
        "texts": {"train": len(texts), "test": len(test_texts)},
        "keep": keep if expected_dims is None else None,
        "expected_dims": expected_dims,
        "cost": cost,
        "thresholds": [None if np.isinf(one) else float(one) for one in chosen.thresholds_],
        "single": {str(dim): score for dim, score in single.items()},
        "cascade": asdict(cascade),
        "curves": [asdict(curve) for curve in curves],
    }
    write_atomically(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    draw_curves(curves, folder / "curve.png", title=Path(train).stem)
    files = tuple(folder / name for name in (FACTS_FILE, "results.json", "curve.png"))
    return Classification(chosen, single, cascade, bound.points[0], files, len(test_texts))


_LEGEND = (
    "Sizes are means over the texts: the largest size that a text was classified at, and the sum of all these.",
    "cascade: stops at the first size that is sure.",
    "oracle: stops at the first size that is right. It looks at the labels, and no rule for stopping does better.",
)


def print_classification(result: Classification, console: Console) -> None:
    """Print accuracy with its interval and both counts of size for every head alone, the cascade and the oracle."""
    table = Table(
        "", *(Column(name, justify="right") for name in ("accuracy", "largest size", "sum of sizes")), pad_edge=False
    )
    for dim, score in result.single.items():
        table.add_row(f"head of {dim}", _accuracy(score, result.tested), str(dim), str(dim))
    for name, point in (("cascade", result.cascade), ("oracle", result.oracle)):
        shown = _accuracy(point.accuracy, result.tested)
        table.add_row(name, shown, f"{point.largest:.1f}", f"{point.paid:,.1f}")
    console.print(table)
    tested = count(result.tested, "text")
    few = [too_few([f"test: {tested}"])] if result.tested < FEW else []
    for sentence in (f"Measured on {tested}, accuracy x100 with 95 % intervals.", *_LEGEND, *few):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _accuracy(score: float, tested: int) -> str:
    """An accuracy with the interval of so many hits and misses: which of the texts they are makes no difference."""
    found = bootstrap_mean(np.arange(tested) < round(score * tested))
    return hundredfold(score, found.low, found.high)


def label_texts(
    folder: str | Path,
    file: str | Path,
    *,
    text: str = "text",
    batch_size: int = 64,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Iterator[dict[str, Any]]:
    """Label new texts with a saved classifier and the model it was fitted for; some are held at a time.

    Args:
        folder: what :func:`classify` wrote.
        file: a table (:func:`mrl_text.tables.open_table`) with a column of texts.
        text, batch_size, device, trust_remote_code: as for :func:`classify`.

    Returns:
        For each row with a text its own columns, and ``label``, ``probability`` and ``dim``, the size that was enough.
        A column of the file that has one of these names is called ``given_label`` and so on, with a warning. Rows
        without a text, or that cannot be read, are logged and left out.

    Raises:
        FileNotFoundError: no classifier, file or model.
        ValueError: a damaged classifier, a model that changed since, no such column, or no row with a text.
    """
    classifier, facts = load_classifier(folder), read_facts(Path(folder))
    if "model" not in facts:
        raise ValueError(f"{folder} does not say which model its vectors came from: embed the texts yourself")
    source = find_model(str(facts["model"]), trust_remote_code=trust_remote_code)
    check_device(device)
    if source.revision != facts["revision"]:
        raise ValueError(f"{facts['model']} has changed since the classifier was fitted: run mrl-text classify again")
    table = open_table(file)
    check_columns(file, [text], table.columns, "name it with --text-column")
    rows = CorpusFile(table, (text,), None, tuple(table.columns)).good_texts()
    if (first := next(rows, None)) is None:
        raise ValueError(f"{file} has no row with text in {text}: there is nothing to label")
    renamed = _renamed(table.columns)
    for name, new in renamed.items():
        logger.warning("%s has a column %s of its own, which is called %s from now on", file, name, new)
    cache = cached(source, dtype="auto", device=device, batch_size=batch_size)
    return _labelled(itertools.chain([first], rows), renamed, classifier, cache)


def _renamed(columns: Sequence[str]) -> dict[str, str]:
    """Columns of a file with a name that a labelled row has of its own -> what they are called there."""
    renamed = {}
    for name in set(_PREDICTED) & set(columns):
        renamed[name] = new = next(
            new for times in itertools.count(1) if (new := "given_" * times + name) not in columns
        )
    return renamed


def _labelled(
    rows: Iterator[Text], renamed: Mapping[str, str], classifier: AdaptiveClassifier, cache: EmbeddingCache
) -> Iterator[dict[str, Any]]:
    while window := list(itertools.islice(rows, _LABELLED)):
        vectors = cache.embed([row.text for row in window])
        probabilities, sizes = classifier.predict_proba(vectors), classifier.predict_dims(vectors)
        names = classifier.classes_[probabilities.argmax(axis=1)].tolist()
        for row, *found in zip(window, names, probabilities.max(axis=1).round(4).tolist(), sizes.tolist(), strict=True):
            own = {renamed.get(name, name): cell for name, cell in row.cells.items()}
            yield own | dict(zip(_PREDICTED, found, strict=True))


def embed_texts(model: str, texts: Sequence[str], *, batch_size: int = 64, device: str | None = None) -> np.ndarray:
    """Full-width vectors float32 (n, width) of a model, each text encoded once; FileNotFoundError for no such model."""
    return _embed(find_model(model), texts, batch_size, device)


def read_labelled(file: str | Path, text: str = "text", label: str = "label") -> tuple[list[str], list[str]]:
    """Texts and labels of a table.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column or malformed rows, each named by file and line.
    """
    texts, labels = _read(file, text, label)
    return texts, labels


def _read(file: str | Path, *names: str) -> list[list[str]]:
    """Columns of a table: texts, then labels."""
    problems = Problems(Path(file))
    table = read_columns(file, names, problems, required=[names])
    converters = zip(names, (as_text, class_name), strict=False)
    columns = [checked(table, name, convert, problems) for name, convert in converters]
    problems.raise_if_any()
    return columns


def _set_apart(texts: list[str], labels: list[str], seed: int) -> tuple[list[str], list[str], list[str], list[str]]:
    """Four fifths to fit on and a fifth to test, each label divided alike; a label with one text is fitted on."""
    from sklearn.model_selection import train_test_split

    counts = Counter(labels)
    rows = [row for row, name in enumerate(labels) if counts[name] > 1]
    classes = {labels[row] for row in rows}
    if not classes or len(rows) * _TESTED_SHARE < len(classes):
        raise ValueError(f"{len(rows)} texts of {len(classes)} labels are too few to set a fifth apart: give test")
    if single := len(texts) - len(rows):
        logger.info("%d labels have one text each, which is fitted on and not tested", single)
    strata = [labels[row] for row in rows]
    _, tested = train_test_split(rows, test_size=_TESTED_SHARE, random_state=seed, stratify=strata)
    out = set(tested)
    kept = [row for row in range(len(texts)) if row not in out]
    fitted, held = (([texts[row] for row in part], [labels[row] for row in part]) for part in (kept, sorted(out)))
    return *fitted, *held


def _embed(source: ModelSource, texts: Sequence[str], batch_size: int, device: str | None) -> np.ndarray:
    return cached(source, dtype="auto", device=device, batch_size=batch_size).embed(texts)


def _curves(classifier: AdaptiveClassifier, vectors: np.ndarray, labels: list[str], kind: str) -> list[Curve]:
    right = classifier.stages(vectors, labels).correct.mean(axis=0)
    single = [Point(float(score), dim, dim) for score, dim in zip(right, classifier.dims_, strict=True)]
    return [
        Curve(kind, single, "single"),
        Curve(f"cascade, {kind}", classifier.curve(vectors, labels), "cascade"),
        Curve(f"oracle, {kind}", [oracle(classifier, vectors, labels)], "oracle"),
    ]


def draw_curves(curves: Sequence[Curve], file: Path, *, title: str = "") -> Path:
    """Draw accuracy against the mean largest size used; ``curves`` in groups of single heads, cascade and oracle."""
    figure = new_figure(8, 4.8)
    axes = figure.subplots()
    group = -1
    for curve in curves:
        group += curve.role == "single"
        style, marker = _LOOKS[curve.role]
        sizes, scores = [point.largest for point in curve.points], [100 * point.accuracy for point in curve.points]
        color = PALETTE[group % len(PALETTE)]
        axes.plot(sizes, scores, linestyle=style, marker=marker, color=color, label=curve.label, linewidth=1.6)
    singles = {point.largest for curve in curves if curve.role == "single" for point in curve.points}
    size_axis(axes, singles, most_ticks=len(singles))
    tidy(axes, title=title, xlabel="numbers of a vector looked at, mean", ylabel="accuracy (x100)")
    axes.legend(frameon=False, fontsize=9)
    return save_figure(figure, file)[0]
