from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from scipy.stats import spearmanr

from mrl_text.eval.statistics import Estimate
from mrl_text.paper.estimates import PROBE, as_json, averaged, over_tasks, scored
from mrl_text.paper.experiment import Model, Side
from mrl_text.paper.fewshot import class_means
from mrl_text.paper.tasks import Labelled, Pairs, Retrieval, Tasks, linear_probe, nearest
from mrl_text.truncation import truncate


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return truncate(generator.normal(size=shape).astype(np.float32))


def side_of(**vectors: np.ndarray) -> Side:
    """A side whose model knows these texts: ``name number`` is a row of the array of that name."""

    def embed(texts: list[str], role: str | None = None) -> np.ndarray:
        return np.stack([vectors[name][int(row)] for name, row in map(str.split, texts)])

    return Side("s", Model("m", "1", (4, 8), embed))


def texts(name: str, count: int) -> list[str]:
    return [f"{name} {row}" for row in range(count)]


def test_pairs_are_scored_by_spearman_of_cosines() -> None:
    generator = np.random.default_rng(0)
    left, right, gold = unit(generator, 50, 8), unit(generator, 50, 8), generator.integers(0, 5, 50).astype(float)
    found = Pairs("p", texts("l", 50), texts("r", 50), gold).score(side_of(l=left, r=right), [4, 8])
    cosines = (truncate(left, 4).astype(float) * truncate(right, 4)).sum(axis=1)
    assert found[4].score() == pytest.approx(spearmanr(cosines, gold)[0], abs=1e-9)


def test_paraphrases_are_found_among_all_second_texts() -> None:
    generator = np.random.default_rng(5)
    left, right = unit(generator, 30, 8), unit(generator, 30, 8)
    right[::3] = left[::3]
    gold = (np.arange(30) % 2 == 0).astype(float)
    found = Pairs("p", texts("l", 30), texts("r", 30), gold).find_paraphrases(side_of(l=left, r=right), [8])[8]
    assert len(found) == 15
    expected = [float((left[row] @ right.T).argmax() == row) for row in range(0, 30, 2)]
    assert found.columns["value"].tolist() == expected and 0 < found.score() < 1


@pytest.mark.parametrize("documents", [5, 700])
def test_retrieval_is_scored_by_ndcg_of_trec_eval(documents: int) -> None:
    generator = np.random.default_rng(1)
    queries, corpus = unit(generator, 300, 12), unit(generator, documents, 12)
    judged = {
        f"q{row}": {f"d{place}": int(generator.integers(1, 4)) for place in generator.permutation(documents)[:k]}
        for row in range(300)
        for k in [1 + row % 4]
    }
    task = Retrieval(
        "r",
        {f"q{row}": f"q {row}" for row in range(300)},
        {f"d{row}": f"d {row}" for row in range(documents)},
        judged,
    )
    similar = queries @ corpus.T
    ranked = {
        f"q{row}": {f"d{place}": float(one) for place, one in enumerate(line)} for row, line in enumerate(similar)
    }
    reference = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(ranked)
    expected = [reference[f"q{row}"]["ndcg_cut_10"] for row in range(300)]
    found = task.score(side_of(q=queries, d=corpus), [12])[12]
    np.testing.assert_allclose(found.columns["value"], expected, atol=1e-9)


def test_classifiers_against_brute_force() -> None:
    generator = np.random.default_rng(2)
    train, test = unit(generator, 90, 6), unit(generator, 40, 6)
    labels = generator.integers(0, 5, 90) * 3  # not 0, 1, 2 ...
    np.testing.assert_array_equal(nearest(train, labels, test), labels[(test @ train.T).argmax(axis=1)])
    classes = np.unique(labels)
    means = np.stack([train[labels == one].mean(axis=0) for one in classes])
    distances = ((test[:, None] - means) ** 2).sum(axis=2)
    np.testing.assert_array_equal(class_means(train, labels, test), classes[distances.argmin(axis=1)])
    firsts = np.unique(labels, return_index=True)[1]  # one text per class
    expected = labels[firsts][(test @ train[firsts].T).argmax(axis=1)]
    np.testing.assert_array_equal(class_means(train[firsts], labels[firsts], test), expected)


def test_probe_finds_a_direction_that_the_nearest_neighbour_misses_and_minds_no_rotation() -> None:
    generator = np.random.default_rng(3)
    noise = generator.normal(size=(600, 10))
    labels = (noise[:, 0] > 0).astype(int)
    noise[:, 1:] *= 3
    train, test = noise[:400].astype(np.float32), noise[400:].astype(np.float32)
    found = linear_probe(train, labels[:400], test)
    assert (found == labels[400:]).mean() > 0.9 > (nearest(train, labels[:400], test) == labels[400:]).mean()
    turn, _ = np.linalg.qr(generator.normal(size=(10, 10)))
    assert (linear_probe(train @ turn, labels[:400], test @ turn) == found).mean() > 0.99


def tasks_and_side() -> tuple[Tasks, Side]:
    generator = np.random.default_rng(4)
    some, labels = texts("t", 60), np.arange(40) % 4
    retrieval = Retrieval(
        "search",
        {"a": some[0], "b": some[1]},
        {one: one for one in some[10:]},
        {"a": {"t 11": 1}, "b": {"t 12": 2, "t 13": 1}},
    )
    tasks = Tasks(
        similar=[Pairs("pairs", some[:20], some[20:40], generator.normal(size=20))],
        searches=[retrieval],
        labelled=[Labelled("labelled", some[:40], labels, some[40:], labels[:20], ("a", "b", "c", "d"))],
    )
    return tasks, side_of(t=unit(generator, 60, 8))


def test_every_task_is_scored_at_every_size() -> None:
    tasks, side = tasks_and_side()
    found = scored(side, tasks, [4, 8], probes=True)
    metrics = [("pairs", "Spearman"), ("search", "nDCG@10"), ("labelled", "1-NN accuracy"), ("labelled", PROBE)]
    assert list(found) == [(*one, dim) for one in metrics for dim in (4, 8)]
    task = tasks.labelled[0]
    train, test = (truncate(one, 4) for one in task.embed(side))
    expected = task.train_labels[(test @ train.T).argmax(axis=1)] == task.test_labels
    assert found["labelled", "1-NN accuracy", 4].value == expected.mean()


def test_estimates_pair_between_sides_and_means_count_tasks_alike() -> None:
    tasks, side = tasks_and_side()
    one, again = scored(side, tasks, [4, 8]), scored(side, tasks, [8])
    difference = one["labelled", "1-NN accuracy", 8] - again["labelled", "1-NN accuracy", 8]
    assert difference.replicates is not None and not difference.replicates.any()  # the same draws
    whole = over_tasks(one)
    assert whole[4].value == pytest.approx(np.mean([one[key].value for key in one if key[2] == 4]))
    assert averaged([one, one])["pairs", "Spearman", 4].value == one["pairs", "Spearman", 4].value


def test_estimate_in_json_says_where_there_is_no_interval() -> None:
    assert as_json(Estimate(0.5, None, np.inf, 1)) == {"value": 50.0, "low": None, "high": None}
    drawn = as_json(Estimate(0.5, np.linspace(0, 1, 1001), 1000, 10))
    assert drawn["low"] == pytest.approx(2.5, abs=0.1) and drawn["high"] == pytest.approx(97.5, abs=0.1)
