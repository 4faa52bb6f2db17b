from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from scipy.stats import spearmanr
from sklearn.neighbors import NearestCentroid

from mrl_text.eval.statistics import Estimate
from mrl_text.paper.data import Data, Labelled, Pairs, Search
from mrl_text.paper.measures import (
    NDCG,
    NEAREST,
    PROBE,
    SPEARMAN,
    averaged,
    class_means,
    estimates,
    ndcg,
    nearest,
    over_tasks,
    probe,
    score,
    spearman,
    value,
)
from mrl_text.paper.world import Encoder, Side
from mrl_text.truncation import truncate


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return truncate(generator.normal(size=shape).astype(np.float32))


def test_spearman_is_that_of_scipy_on_float64_cosines() -> None:
    generator = np.random.default_rng(0)
    left, right, gold = unit(generator, 50, 8), unit(generator, 50, 8), generator.integers(0, 5, 50).astype(float)
    expected = spearmanr((left.astype(float) * right).sum(axis=1), gold)[0]
    assert spearman(left, right, gold).score() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("documents", [5, 700])
def test_ndcg_is_that_of_trec_eval(documents: int) -> None:
    generator = np.random.default_rng(1)
    queries, corpus = unit(generator, 300, 12), unit(generator, documents, 12)
    relevant = [
        {int(place): float(generator.integers(1, 4)) for place in generator.permutation(documents)[: 1 + row % 4]}
        for row in range(300)
    ]
    judged = {
        f"q{row}": {f"d{place}": int(grade) for place, grade in grades.items()} for row, grades in enumerate(relevant)
    }
    similar = queries @ corpus.T
    ranked = {
        f"q{row}": {f"d{place}": float(one) for place, one in enumerate(line)} for row, line in enumerate(similar)
    }
    reference = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(ranked)
    expected = [reference[f"q{row}"]["ndcg_cut_10"] for row in range(300)]
    np.testing.assert_allclose(ndcg(queries, corpus, relevant), expected, atol=1e-9)


def test_classifiers_against_brute_force_and_scikit_learn() -> None:
    generator = np.random.default_rng(2)
    train, test = unit(generator, 90, 6), unit(generator, 40, 6)
    labels = generator.integers(0, 5, 90) * 3  # not 0, 1, 2 ...
    np.testing.assert_array_equal(nearest(train, labels, test), labels[(test @ train.T).argmax(axis=1)])
    np.testing.assert_array_equal(class_means(train, labels, test), NearestCentroid().fit(train, labels).predict(test))


def test_probe_finds_a_direction_that_the_nearest_neighbour_misses_and_minds_no_rotation() -> None:
    generator = np.random.default_rng(3)
    noise = generator.normal(size=(600, 10))
    labels = (noise[:, 0] > 0).astype(int)
    noise[:, 1:] *= 3
    train, test = noise[:400].astype(np.float32), noise[400:].astype(np.float32)
    found = probe(train, labels[:400], test)
    assert (found == labels[400:]).mean() > 0.9 > (nearest(train, labels[:400], test) == labels[400:]).mean()
    turn, _ = np.linalg.qr(generator.normal(size=(10, 10)))
    assert (probe(train @ turn, labels[:400], test @ turn) == found).mean() > 0.99


def data_and_encoder() -> tuple[Data, Encoder]:
    generator = np.random.default_rng(4)
    texts = [f"text {number}" for number in range(60)]
    vectors = dict(zip(texts, unit(generator, 60, 8), strict=True))
    encoder = Encoder("e", "1", (4, 8), lambda some, role=None: np.stack([vectors[text] for text in some]))
    labels = np.arange(40) % 4
    data = Data(
        similar=[Pairs("pairs", texts[:20], texts[20:40], generator.normal(size=20))],
        searches=[Search("search", texts[:10], texts[10:], [{row: 1.0} for row in range(10)])],
        labelled=[Labelled("labelled", texts[:40], labels, texts[40:], labels[:20], ("a", "b", "c", "d"))],
    )
    return data, encoder


def test_score_cuts_every_task_to_every_size() -> None:
    data, encoder = data_and_encoder()
    found = score(Side("s", encoder), data, [4, 8], probes=True)
    assert set(found) == {("pairs", SPEARMAN), ("search", NDCG), ("labelled", NEAREST), ("labelled", PROBE)}
    train, test = (truncate(encoder.embed(some), 4) for some in (data.labelled[0].train, data.labelled[0].test))
    expected = data.labelled[0].train_labels[(test @ train.T).argmax(axis=1)] == data.labelled[0].test_labels
    assert found["labelled", NEAREST][4].score() == expected.mean()


def test_estimates_pair_between_sides_and_means_count_tasks_alike() -> None:
    data, encoder = data_and_encoder()
    one = estimates(score(Side("s", encoder), data, [4, 8]))
    again = estimates(score(Side("s", encoder), data, [8]))
    difference = one["labelled", NEAREST, 8] - again["labelled", NEAREST, 8]
    assert difference.replicates is not None and not difference.replicates.any()  # the same draws
    whole = over_tasks(one)
    assert whole[4].value == pytest.approx(np.mean([one[key].value for key in one if key[2] == 4]))
    assert averaged([one, one])["pairs", SPEARMAN, 4].value == one["pairs", SPEARMAN, 4].value
    assert over_tasks(one, [NDCG])[8].value == one["search", NDCG, 8].value


def test_value_is_json_and_says_where_there_is_no_interval() -> None:
    assert value(Estimate(0.5, None, np.inf, 1)) == {"value": 50.0, "low": None, "high": None}
    drawn = value(Estimate(0.5, np.linspace(0, 1, 1001), 1000, 10))
    assert drawn["low"] == pytest.approx(2.5, abs=0.1) and drawn["high"] == pytest.approx(97.5, abs=0.1)
