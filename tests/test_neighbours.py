from __future__ import annotations

import numpy as np
import pytest

from mrl_text.neighbours import GROUP_SIZE, MEMBERS, neighbour_batches, neighbour_groups


def clouds(count: int, members: int, *, width: int = 24, spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around ``count`` distant points, shuffled, and the number of each one's point."""
    generator = np.random.default_rng(0)
    centres = np.linalg.qr(generator.normal(size=(width, width)))[0][:count]
    of = generator.permutation(np.repeat(np.arange(count), members))
    vectors = centres[of] + spread * generator.normal(size=(len(of), width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), of


def test_groups_hold_near_neighbours() -> None:
    """Random halves of the texts are alike within a group as over all; groups are much more alike."""
    vectors, clouds_of = clouds(20, 60)
    groups = neighbour_groups(vectors, group_size=60)
    assert groups.dtype == np.int32
    assert groups.shape == (1200,)
    similarities = vectors @ vectors.T
    together = groups[:, None] == groups
    assert similarities[together].mean() > similarities.mean() + 0.5
    right = [np.bincount(clouds_of[groups == group]).max() for group in np.unique(groups)]
    assert sum(right) / 1200 > 0.7


def test_the_groups_have_the_size_that_was_asked_for_on_average() -> None:
    vectors = np.random.default_rng(1).normal(size=(2000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for size in (20, GROUP_SIZE):
        found = len(np.unique(neighbour_groups(vectors, group_size=size)))
        assert 0.8 * 2000 / size <= found <= 2000 / size


def test_groups_repeat_with_their_seed() -> None:
    vectors, _ = clouds(10, 50, spread=0.4)
    first = neighbour_groups(vectors, group_size=25, seed=3)
    assert np.array_equal(first, neighbour_groups(vectors, group_size=25, seed=3))
    assert not np.array_equal(first, neighbour_groups(vectors, group_size=25, seed=4))


def test_few_texts_and_equal_texts_are_no_trouble() -> None:
    vectors, _ = clouds(2, 10)
    assert np.array_equal(neighbour_groups(vectors), np.zeros(20, dtype=np.int32))
    assert neighbour_groups(np.ones((500, 4), dtype=np.float32) / 2, group_size=10).shape == (500,)


@pytest.mark.parametrize(("count", "size"), [(0, 60), (10, 0)])
def test_impossible_groups_are_refused(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="group size of at least 1"):
        neighbour_groups(np.ones((count, 4), dtype=np.float32), group_size=size)


@pytest.mark.parametrize("sizes", [[100], [24, 24], [1] * 50, [70, 3, 25, 49, 1]], ids=str)
@pytest.mark.parametrize("batch_size", [1, 7, 48, 1000])
def test_every_text_comes_once_in_an_epoch(sizes: list[int], batch_size: int) -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)) * 3 + 5, sizes))
    batches = list(neighbour_batches(groups, batch_size, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(groups)))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert len(batches) == -(-len(groups) // batch_size)


def test_texts_of_a_group_stay_together_up_to_the_limit() -> None:
    """Ten groups of 48 and batches of four times 24: whole halves of groups, never a longer run by design."""
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 48))
    for batch in neighbour_batches(groups, 4 * MEMBERS, np.random.default_rng(1)):
        pieces = groups[batch].reshape(4, MEMBERS)
        assert (pieces == pieces[:, :1]).all()


def test_a_large_group_is_spread_over_the_epoch() -> None:
    """Pieces are shuffled: the halves of a group do not always follow each other."""
    groups = np.repeat(np.arange(30), 12)
    order = np.concatenate(list(neighbour_batches(groups, 6, np.random.default_rng(2), members=6)))
    pieces = groups[order].reshape(-1, 6)[:, 0]
    assert (pieces[1:] == pieces[:-1]).mean() < 0.3


def test_an_epoch_follows_from_the_generators_state_and_the_next_differs() -> None:
    groups = np.repeat(np.arange(8), 30)
    generator = np.random.default_rng(5)
    first, second = (np.concatenate(list(neighbour_batches(groups, 32, generator))) for _ in range(2))
    again = np.concatenate(list(neighbour_batches(groups, 32, np.random.default_rng(5))))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    members = [set(piece) for piece in np.split(first[groups[first] == 0], [24])]
    assert members != [set(piece) for piece in np.split(second[groups[second] == 0], [24])]
