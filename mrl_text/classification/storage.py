"""A classifier on disk: a description in JSON and numbers in npz. Reading them runs no code."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mrl_text.classification.adaptive import AdaptiveClassifier
from mrl_text.classification.nested import Heads
from mrl_text.classification.thresholds import Path as ThresholdPath
from mrl_text.files import read_json, write_atomically

FACTS_FILE = "classifier.json"


def save_classifier(classifier: AdaptiveClassifier, folder: str | Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Write a fitted classifier: its numbers to an ``.npz`` named after their checksum, then ``classifier.json``.

    The JSON file names the other and is written last, so a folder holds the old classifier or the new one. Labels are
    texts, whole numbers or truth values; ``facts`` are more to keep as JSON, such as the model. Returns ``folder``.

    Raises:
        ValueError: labels of another type.
        sklearn.exceptions.NotFittedError: not fitted.
    """
    check_is_fitted(classifier)
    if classifier.classes_.dtype.kind not in "iubUO" or not all(
        isinstance(label, str | int) for label in classifier.classes_.tolist()
    ):
        raise ValueError(f"labels are kept as JSON: texts or whole numbers, not {classifier.classes_.dtype}")
    place, heads = Path(folder), classifier.heads_
    weights = heads.weights[-1:] if classifier.tied else heads.weights
    arrays = {f"weights{number}": array for number, array in enumerate(weights)}
    arrays |= {"intercepts": heads.intercepts, "temperatures": classifier.temperatures_}
    arrays |= {"path": classifier.path_.thresholds, "kept": classifier.path_.accuracy, "held_out": classifier.held_out_}
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    content = stream.getvalue()
    name = _checked_name(content)
    seed = classifier.random_state if isinstance(classifier.random_state, int) else None  # a generator is not kept
    described = {
        "parameters": {**classifier.get_params(), "dims": list(classifier.dims_), "random_state": seed},
        "classes": classifier.classes_.tolist(),
        "dtype": classifier.classes_.dtype.str,
        "width": classifier.n_features_in_,
        "steps": classifier.n_iter_,
        "C": classifier.C_,
        "place": classifier.place_,
        "numbers": name,
        **(facts or {}),
    }
    text = json.dumps(described, indent=2, default=lambda value: value.item())
    write_atomically(place / name, content)
    write_atomically(place / FACTS_FILE, text.encode())
    for other in place.glob("classifier-*.npz"):
        if other.name != name:
            other.unlink()
    return place


def load_classifier(folder: str | Path) -> AdaptiveClassifier:
    """Read a classifier that :func:`save_classifier` wrote. It predicts the same numbers.

    Args:
        folder: where it was saved; or ``classifier.json`` in it.

    Raises:
        FileNotFoundError: no classifier there.
        ValueError: damaged files, or files of another kind.
    """
    place = _folder_of(Path(folder))
    facts = read_facts(place)
    try:
        classifier = AdaptiveClassifier(**facts["parameters"])
        content = (place / facts["numbers"]).read_bytes()
        if facts["numbers"] != _checked_name(content):
            raise ValueError("the numbers do not match their checksum")
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        dims = tuple(facts["parameters"]["dims"])
        names = ["weights0" if classifier.tied else f"weights{number}" for number in range(len(dims))]
        weights = tuple(arrays[name][:dim] for name, dim in zip(names, dims, strict=True))
        classifier.classes_ = np.array(facts["classes"], dtype=np.dtype(facts["dtype"]))
        classifier.n_features_in_, classifier.dims_ = int(facts["width"]), dims
        classifier.heads_ = Heads(dims, weights, arrays["intercepts"], int(facts["steps"]))
        classifier.C_ = float(facts["C"])
        classifier.n_iter_ = classifier.heads_.steps
        classifier.temperatures_, classifier.held_out_ = arrays["temperatures"], arrays["held_out"]
        classifier.path_ = ThresholdPath(arrays["path"], arrays["kept"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place / FACTS_FILE} names a file that is not there: {error.filename}") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{place} holds no classifier that can be read: {' '.join(str(error).split())}") from error
    return classifier.take(facts["place"])


def _folder_of(place: Path) -> Path:
    """The folder, also where its file is given, which is what ``mrl-text classify`` prints."""
    return place.parent if place.name == FACTS_FILE else place


def read_facts(folder: Path) -> dict[str, Any]:
    """Read ``classifier.json`` of a folder; errors as for :func:`load_classifier`."""
    file = _folder_of(folder) / FACTS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"no classifier in {folder}: expected {FACTS_FILE}, as mrl-text classify writes it")
    facts = read_json(file)
    if not isinstance(facts, dict):
        raise ValueError(f"{file} holds no classifier")
    return facts


def _checked_name(content: bytes) -> str:
    return f"classifier-{hashlib.blake2b(content, digest_size=8).hexdigest()}.npz"
