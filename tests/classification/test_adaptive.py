from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone

from mrl_text.classification import AdaptiveClassifier, NestedClassifier, load_classifier, oracle, save_classifier
from mrl_text.classification.adaptive import temperature
from mrl_text.truncation import truncate

DIMS = (2, 4, 12)


def made(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors whose first numbers say much about the class, the later ones the rest."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 6, size=n)
    centres = np.random.default_rng(99).normal(size=(6, 12))
    return truncate(centres[labels] + generator.normal(size=(n, 12)) * 0.9), labels


@pytest.fixture(scope="module", params=[False, True], ids=["separate", "tied"])
def fitted(request: pytest.FixtureRequest) -> AdaptiveClassifier:
    classifier = AdaptiveClassifier(DIMS, tied=request.param, keep=0.98, random_state=0)
    return classifier.fit(*made(600, 0))


def slow(classifier: AdaptiveClassifier, vector: np.ndarray) -> tuple[int, int, int, np.ndarray]:
    """Label, largest size, sum of sizes and probabilities of one vector, as the method is described."""
    spent = 0
    for stage, dim in enumerate(classifier.dims_):
        last = stage == len(classifier.dims_) - 1
        threshold = -1.0 if last else classifier.thresholds_[stage]
        if threshold == np.inf:
            continue
        spent += dim
        prefix = vector[:dim] / np.linalg.norm(vector[:dim])
        logits = prefix @ classifier.heads_.weights[stage] + classifier.heads_.intercepts[stage]
        probabilities = softmax(logits / classifier.temperatures_[stage])
        second, first = np.sort(probabilities)[-2:]
        if first / (first + second) >= threshold:
            return int(classifier.classes_[probabilities.argmax()]), dim, spent, probabilities
    raise AssertionError("the last head takes everything")


@pytest.mark.slow
def test_the_cascade_is_what_a_loop_over_inputs_does(fitted: AdaptiveClassifier) -> None:
    vectors, labels = made(200, 1)
    rows = [slow(fitted, vector) for vector in vectors]
    np.testing.assert_array_equal(fitted.predict(vectors), [row[0] for row in rows])
    np.testing.assert_array_equal(fitted.predict_dims(vectors), [row[1] for row in rows])
    np.testing.assert_allclose(fitted.predict_proba(vectors), [row[3] for row in rows], atol=1e-9)
    point = fitted.evaluate(vectors, labels)
    assert point.accuracy == fitted.score(vectors, labels)
    assert point.largest == pytest.approx(np.mean([row[1] for row in rows]))
    assert point.paid == pytest.approx(np.mean([row[2] for row in rows]))
    assert len(set(fitted.predict_dims(vectors))) > 1


@pytest.mark.slow
def test_it_keeps_the_accuracy_at_a_smaller_size(fitted: AdaptiveClassifier) -> None:
    vectors, labels = made(4000, 2)
    full = fitted.stages(vectors, labels).correct[:, -1].mean()
    point = fitted.evaluate(vectors, labels)
    assert point.accuracy >= full - 0.02 - 0.02  # keep, and four standard errors of thresholds and test
    assert point.largest < DIMS[-1]
    assert point.largest == pytest.approx(fitted.expected_dims_, rel=0.15)
    assert point.paid == pytest.approx(fitted.expected_paid_, rel=0.15)


def test_choose_moves_along_the_path_without_a_fit(fitted: AdaptiveClassifier) -> None:
    vectors, labels = made(500, 3)
    curve = fitted.curve(vectors, labels)
    sizes = []
    for keep in (1.0, 0.98, 0.5):
        assert fitted.choose(keep).evaluate(vectors, labels) in curve
        sizes.append(fitted.expected_dims_)
    for most in (6.0, 9.0, float(DIMS[-1])):
        assert fitted.choose(expected_dims=most).expected_dims_ <= most
        cheaper = fitted.held_out_[:, 1] <= most
        assert fitted.path_.accuracy[fitted.place_] == fitted.path_.accuracy[cheaper].max()
    with pytest.raises(ValueError, match="cheapest"):
        fitted.choose(expected_dims=1)
    with pytest.raises(ValueError, match="one of them"):
        fitted.choose(0.9, expected_dims=9)
    fitted.choose(0.98)
    assert sizes[0] >= sizes[1] >= sizes[2]
    assert curve[-1].largest == DIMS[-1]


def test_oracle_stops_at_the_smallest_head_that_is_right(fitted: AdaptiveClassifier) -> None:
    vectors, labels = made(150, 4)
    correct = fitted.stages(vectors, labels).correct
    sizes = [next((dim for dim, right in zip(DIMS, row, strict=True) if right), DIMS[0]) for row in correct]
    bound = oracle(fitted, vectors, labels)
    assert bound.accuracy == pytest.approx(correct.any(axis=1).mean())
    assert bound.largest == pytest.approx(np.mean(sizes))
    assert bound.paid == pytest.approx(np.mean([sum(dim for dim in DIMS if dim <= size) for size in sizes]))
    nested = NestedClassifier(DIMS, tied=fitted.tied).fit(*made(600, 0))
    assert oracle(nested, vectors, labels) == bound


@pytest.mark.slow
def test_saved_and_loaded_it_predicts_the_same(fitted: AdaptiveClassifier, tmp_path: Path) -> None:
    vectors, labels = made(100, 5)
    names = np.array(["zero", "one", "two", "three", "four", "five"])
    named = clone(fitted).fit(made(300, 0)[0], names[made(300, 0)[1]])
    for classifier, given in ((fitted, made(600, 0)), (named, (made(300, 0)[0], names[made(300, 0)[1]]))):
        save_classifier(classifier, tmp_path, {"note": "kept"})
        loaded = load_classifier(tmp_path / "classifier.json")  # the folder will do, too
        np.testing.assert_array_equal(loaded.predict(vectors), classifier.predict(vectors))
        np.testing.assert_array_equal(loaded.predict_proba(vectors), classifier.predict_proba(vectors))
        np.testing.assert_array_equal(loaded.thresholds_, classifier.thresholds_)
        assert loaded.expected_dims_ == classifier.expected_dims_
        moved = loaded.choose(0.5).predict_dims(vectors)
        np.testing.assert_array_equal(moved, clone(classifier).set_params(keep=0.5).fit(*given).predict_dims(vectors))
        assert len(list(tmp_path.glob("*.npz"))) == 1
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(vectors), fitted.predict(vectors))
    assert fitted.score(vectors, labels) == again.score(vectors, labels)


def test_a_damaged_classifier_is_refused(fitted: AdaptiveClassifier, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"classifier\.json"):
        load_classifier(tmp_path)
    save_classifier(fitted, tmp_path)
    (numbers,) = tmp_path.glob("*.npz")
    content = numbers.read_bytes()
    numbers.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="checksum"):
        load_classifier(tmp_path)
    numbers.unlink()
    with pytest.raises(FileNotFoundError, match="not there"):
        load_classifier(tmp_path)
    (tmp_path / "classifier.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_classifier(tmp_path)


def test_temperature_undoes_a_scale() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(5000, 4)) * 2
    labels = np.array([generator.choice(4, p=row) for row in softmax(logits, axis=1)])
    for scale in (0.5, 1.0, 3.0):
        assert temperature(logits * scale, labels) == pytest.approx(scale, rel=0.08)


@pytest.mark.slow
def test_a_class_with_one_member_is_no_obstacle() -> None:
    vectors, labels = made(200, 6)
    labels = labels.copy()
    labels[0] = 77
    classifier = AdaptiveClassifier(DIMS, random_state=0).fit(vectors, labels)
    assert 77 in classifier.classes_
    assert np.isfinite(classifier.predict_proba(vectors)).all()


def test_impossible_calls_say_what_is_allowed() -> None:
    vectors, labels = made(60, 7)
    for options, message in (
        ({"keep": 1.1}, "keep must be a share"),
        ({"cost": "sums"}, "did you mean 'sum'"),
        ({"cv": 1}, "at least 2 folds"),
        ({"dims": [4, 99]}, "from 1 to 12"),
    ):
        with pytest.raises(ValueError, match=message):
            AdaptiveClassifier(**options).fit(vectors, labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no class has two"):
        AdaptiveClassifier().fit(vectors[:4], [1, 2, 3, 4])
