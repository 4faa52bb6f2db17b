"""Fitting a matrix to the vectors of a frozen model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mrl_text.adapt.adaptation import Adaptation
from mrl_text.choices import AdaptMethod
from mrl_text.codes import Codec
from mrl_text.losses import InfoNCE
from mrl_text.losses.kernel import Neighbours, nested_cross_entropy
from mrl_text.losses.objectives import checked_weights
from mrl_text.neighbours import neighbour_batches, neighbour_groups
from mrl_text.progress import progress_bar
from mrl_text.suggest import check_choice
from mrl_text.truncation import check_dims, truncate

logger = logging.getLogger(__name__)

_BATCH = 384  # texts per step: six groups of near neighbours and a few more
_TOGETHER = 64  # texts of one group in a batch, at most: nearly all groups stay whole
_PAIRS = 512
_SCALE = 10.0
_CONTRAST_SCALE = 20.0
_ROTATION_RATE, _LINEAR_RATE = 0.2, 0.004  # by the root of the width, so that a step turns by as much at any width
_STEPS, _PASSES = 1500, 20  # longer did not help; with few texts, more passes over them learn them by heart
_FEW = 10_000
_LONGEST_TURN, _POWER_STEPS = 0.5, 8


def fit(
    embeddings: np.ndarray,
    *,
    method: AdaptMethod = "rotation",
    dims: Sequence[int] | None = None,
    pairs: np.ndarray | None = None,
    weights: Sequence[float] | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Adaptation:
    """Fit a matrix after which the first numbers of a vector say most.

    ``rotation`` is orthogonal: no similarity of the full width changes. It is trained without labels: in batches of
    near neighbours, each prefix shall have the similarities of the full width, softmax(10 * cosine), by
    Kullback-Leibler divergence. ``pca`` is orthogonal, too: the eigenvectors of the vectors' second moment, largest
    first. Nothing is centred, since that would change similarities. ``linear`` is any matrix, trained on pairs with
    nested InfoNCE (arXiv 2205.13147): more freedom, and the full width can lose by it.

    Args:
        embeddings: float array (n, width) of one model, any length; scaled to unit length here.
        method: ``rotation``, ``linear`` or ``pca``.
        dims: sizes to be good at; None is the powers of two from 16 up, and the width.
        pairs: whole numbers (m, 2) for ``linear``: the rows of an anchor and of its positive.
        weights: of each size in the order of ``dims``, at least 0; None is 1 for each. ``pca`` has no use for them.
        steps: of the training; None is 1500, or 20 passes over the texts or pairs where that is less. ``pca`` needs
            none.
        seed: of groups and batches.
        progress: show a bar on stderr.

    Returns:
        The adaptation with a codec of its vectors, and the number of texts and the seconds among its facts.

    Raises:
        ValueError: an unknown method, embeddings that are no finite non-zero vectors (with the position of the
            first), an impossible size, weight or number of steps, or pairs that are missing, not wanted, or name
            rows that are not there.
    """
    check_choice("method", method, AdaptMethod)
    vectors = unit_rows(embeddings)
    width = vectors.shape[1]
    chosen = fitted_dims(width, dims)
    weight_of = checked_weights(chosen if dims is None else dims, weights)
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if method == "rotation" and not any(weight_of[dim] for dim in chosen if dim < width):
        raise ValueError(f"a rotation changes nothing at {width}, the full width: give weight to a smaller size")
    if method != "linear" and pairs is not None:
        raise ValueError(f"{method} needs no pairs: leave them out, or choose the method linear")
    if len(vectors) < _FEW:
        logger.warning("%d texts are few: sizes below 64 may lose by it; take %d or more", len(vectors), _FEW)
    started = time.monotonic()
    if method == "pca":
        matrix = _pca(vectors)
    elif method == "rotation":
        matrix = _rotation(vectors, chosen, weight_of, steps or _steps(len(vectors), _BATCH), seed, progress)
    else:
        rows = _checked_pairs(pairs, len(vectors))
        matrix = _linear(vectors, rows, chosen, weight_of, steps or _steps(len(rows), _PAIRS), seed, progress)
    matrix = matrix.astype(np.float32)
    facts = {"texts": len(vectors), "seed": seed, "seconds": round(time.monotonic() - started, 1)}
    return Adaptation(matrix, chosen, method, facts, Codec.fit(vectors @ matrix))


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """The vectors with unit length, float32 (n, width).

    Raises:
        ValueError: not a float array of two or more rows, or a row that is zero or not finite, with its position.
    """
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or len(embeddings) < 2:
        raise ValueError(
            f"expected float vectors of shape (texts, width), two texts at least; got {embeddings.dtype} of shape"
            f" {embeddings.shape}"
        )
    for words, bad in (
        ("not finite", ~np.isfinite(embeddings).all(axis=1)),
        ("zero and has no direction", ~embeddings.any(axis=1)),
    ):
        if bad.any():
            count = f" ({bad.sum()} are like it)" if bad.sum() > 1 else ""
            raise ValueError(f"the embedding at position {bad.argmax()} is {words}{count}: leave it out")
    return truncate(embeddings).astype(np.float32, copy=False)


def fitted_dims(width: int, dims: Sequence[int] | None) -> tuple[int, ...]:
    """The sizes to fit for, ascending; None is the powers of two from 16 up, and the width; ValueError beyond it."""
    if dims is None:
        return check_dims([2**power for power in range(4, width.bit_length()) if 2**power < width] + [width])
    return check_dims(dims, width)


def _steps(count: int, batch: int) -> int:
    return max(1, min(_STEPS, _PASSES * count // batch))


def _checked_pairs(pairs: np.ndarray | None, count: int) -> np.ndarray:
    if pairs is None:
        raise ValueError("linear is trained on pairs: give the rows of anchors and positives, shape (pairs, 2)")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu" or len(pairs) < 2:
        raise ValueError(f"expected two or more pairs, whole numbers (m, 2); got {pairs.dtype} of shape {pairs.shape}")
    if pairs.min() < 0 or pairs.max() >= count:
        raise ValueError(f"pairs name rows from 0 to {count - 1}, got {pairs.min()} to {pairs.max()}")
    if min(len(np.unique(column)) for column in pairs.T) < 2:
        raise ValueError("all pairs share their anchor or their positive: there is nothing to tell apart")
    return pairs.astype(np.int64)


def _pca(vectors: np.ndarray) -> np.ndarray:
    moment = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), 8192):  # float64 a block at a time
        block = vectors[start : start + 8192].astype(np.float64)
        moment += block.T @ block
    _, basis = np.linalg.eigh(moment)
    basis = basis[:, ::-1]
    signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(len(basis))])  # the same on every machine
    return np.asarray(basis * signs)


def _rotation(
    vectors: np.ndarray, dims: Sequence[int], weight_of: dict[int, float], steps: int, seed: int, progress: bool
) -> np.ndarray:
    """Orthogonal (width, width), float64.

    A step is a small rotation of the numbers that come out, I + S with S skew; Adam chooses S in coordinates that
    turn with the matrix. No matrix is inverted and none is differentiated through, so wide vectors stay affordable.
    """
    texts = torch.from_numpy(vectors)
    width = texts.shape[1]
    sizes = [dim for dim in dims if dim < width]  # at the full width a rotation changes nothing
    weights, scales = [weight_of[dim] for dim in sizes], [_SCALE] * len(sizes)
    groups = neighbour_groups(vectors, seed=seed)
    batches = _forever(lambda generator: neighbour_batches(groups, _BATCH, generator, members=_TOGETHER), seed)
    rotation, turn = torch.eye(width), torch.zeros(width, width)
    block = torch.bucketize(torch.arange(width), torch.tensor(sizes), right=True)
    matters = block[:, None] != block  # mixing numbers between two sizes changes no prefix, and Adam enlarges noise

    def gradient() -> Tensor:
        teacher = texts[torch.from_numpy(next(batches))]
        rotated = teacher @ rotation
        student = rotated[:, : sizes[-1]].clone().requires_grad_()
        target = Neighbours(teacher, teacher, _SCALE, own=torch.arange(len(teacher)))
        value = nested_cross_entropy(student, student, sizes, target, weights=weights, scales=scales)
        (by_student,) = torch.autograd.grad(value.total, student)
        by_turn = torch.nn.functional.pad(rotated.T @ by_student, (0, width - sizes[-1]))
        return (by_turn - by_turn.T) * matters

    def moved() -> None:
        rotation.copy_(_turned(rotation, turn))
        turn.zero_()

    _train(turn, gradient, moved, steps, _ROTATION_RATE / width**0.5, progress)
    left, _, right = torch.linalg.svd(rotation.double())  # the nearest orthogonal matrix
    return np.asarray((left @ right).numpy())


def _turned(rotation: Tensor, turn: Tensor) -> Tensor:
    """An orthogonal matrix after a small turn, skew: to first order, then back to orthogonal (Newton and Schulz).

    That converges where the turn is small. The last batch of an epoch may be a few texts, which all ask for the same
    one: what is longer than half, by its spectral norm (power iteration), is shortened to that.
    """
    direction = torch.randn(len(turn), generator=torch.Generator().manual_seed(0))
    for _ in range(_POWER_STEPS):
        direction = torch.nn.functional.normalize(turn.T @ (turn @ direction), dim=0)
    length = float((turn @ direction).norm())
    if length > _LONGEST_TURN:
        turn = turn * (_LONGEST_TURN / length)
    turned = rotation + rotation @ turn
    return 1.5 * turned - 0.5 * turned @ (turned.T @ turned)


def _linear(
    vectors: np.ndarray,
    pairs: np.ndarray,
    dims: Sequence[int],
    weight_of: dict[int, float],
    steps: int,
    seed: int,
    progress: bool,
) -> np.ndarray:
    texts = torch.from_numpy(vectors)
    objective = InfoNCE(dims, weights=[weight_of[dim] for dim in dims], scale=_CONTRAST_SCALE)
    batches = _forever(lambda generator: _pair_batches(pairs, generator), seed)
    matrix = torch.eye(texts.shape[1])

    def gradient() -> Tensor:
        rows = torch.from_numpy(next(batches))
        free = matrix.clone().requires_grad_()
        value = objective([texts[rows[:, 0]] @ free, texts[rows[:, 1]] @ free], None, dims)
        return torch.autograd.grad(value.total, free)[0]

    _train(matrix, gradient, lambda: None, steps, _LINEAR_RATE / texts.shape[1] ** 0.5, progress)
    return matrix.numpy()


def _pair_batches(pairs: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """One epoch of pairs; in a batch each text occurs once, since a second copy would count as a wrong answer."""
    order = generator.permutation(len(pairs))
    for start in range(0, len(order), _PAIRS):
        batch = pairs[order[start : start + _PAIRS]]
        for column in (0, 1):
            batch = batch[np.unique(batch[:, column], return_index=True)[1]]
        if len(batch) > 1 or len(order) <= _PAIRS:
            yield batch


def _forever(epoch: Callable[[np.random.Generator], Iterator[np.ndarray]], seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    while True:
        yield from (batch for batch in epoch(generator) if len(batch) > 1)


def _train(
    parameter: Tensor,
    gradient: Callable[[], Tensor],
    moved: Callable[[], None],
    steps: int,
    rate: float,
    progress: bool,
) -> None:
    """Adam with a one-cycle learning rate; ``moved`` is called after each step."""
    optimizer = torch.optim.Adam([parameter], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps + 1)
    for _ in progress_bar(range(steps), desc="Fitting", unit="step", disable=not progress, leave=False):
        with torch.enable_grad():
            parameter.grad = gradient()
        optimizer.step()
        schedule.step()
        moved()
