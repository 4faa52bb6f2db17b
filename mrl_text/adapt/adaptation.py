"""A matrix that reorders what vectors say: how it is kept, and how it becomes a part of a model."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from mrl_text.choices import AdaptMethod
from mrl_text.codes import Codec
from mrl_text.files import write_atomically
from mrl_text.linear_layers import add_linear
from mrl_text.truncation import check_dims, truncate

if TYPE_CHECKING:
    from mrl_text.encoder import MatryoshkaEncoder

METHODS: tuple[AdaptMethod, ...] = get_args(AdaptMethod)  # what :func:`~mrl_text.adapt.fit` can do


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A square matrix for vectors of one model, applied as ``vectors @ matrix``."""

    matrix: np.ndarray  # float32 (width, width)
    dims: tuple[int, ...]  # sizes it was fitted for, ascending
    method: AdaptMethod  # ``rotation`` and ``pca`` are orthogonal: they keep every similarity of the full width
    facts: Mapping[str, Any] = field(default_factory=dict)  # what is worth knowing about the fit (JSON values)
    codec: Codec | None = None  # of vectors behind the matrix; None if an older mrl-text fitted it

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return int(self.matrix.shape[0])

    def transform(self, vectors: np.ndarray, dim: int | None = None) -> np.ndarray:
        """Vectors in the new order of importance, cut and made unit length.

        Args:
            vectors: float array (n, width) or (width,) of the model that the matrix was fitted for.
            dim: numbers to keep; None keeps all.

        Returns:
            float32 array (n, dim) or (dim,) with unit rows; a zero vector stays zero.

        Raises:
            ValueError: vectors of another width, or an impossible ``dim``.
        """
        if vectors.ndim not in (1, 2) or vectors.shape[-1] != self.width:
            raise ValueError(f"expected vectors of {self.width} numbers, got an array of shape {vectors.shape}")
        return truncate(vectors.astype(np.float32, copy=False) @ self.matrix, dim)

    def save(self, file: str | Path) -> None:
        """Write the matrix to ``file`` (``.npy``), and beside it method, sizes and facts (``.json``) and the codec.

        The codec of ``rotation.npy`` is ``rotation.codec.json``.

        Raises:
            ValueError: a file name that does not end in ``.npy``.
        """
        path = matrix_file(file)
        stream = io.BytesIO()
        np.save(stream, self.matrix)
        write_atomically(path, stream.getvalue())
        if self.codec is not None:
            self.codec.save(path.with_suffix(".codec.json"))
        write_atomically(path.with_suffix(".json"), self.describe().encode())

    def describe(self) -> str:
        """Method, sizes and facts as JSON."""
        return json.dumps({"method": self.method, "dims": list(self.dims), **self.facts}, indent=2) + "\n"


def load_adaptation(file: str | Path) -> Adaptation:
    """Read what :meth:`Adaptation.save` wrote.

    Raises:
        FileNotFoundError: the matrix, or the JSON file beside it, is not there.
        ValueError: a file that holds something else.
    """
    path = matrix_file(file)
    beside = path.with_suffix(".json")
    if missing := [str(one) for one in (path, beside) if not one.is_file()]:
        raise FileNotFoundError(f"no adaptation at {path}: {' and '.join(missing)} not found")
    try:
        matrix = np.load(path, allow_pickle=False)
        facts = json.loads(beside.read_text(encoding="utf-8"))
        method, dims = facts.pop("method"), facts.pop("dims")
    except (ValueError, KeyError, AttributeError, TypeError, EOFError) as error:
        raise ValueError(f"{path} and {beside.name} are no adaptation: {' '.join(str(error).split())}") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind != "f":
        raise ValueError(f"{path} holds {matrix.dtype} of shape {matrix.shape}, expected a square float matrix")
    if method not in METHODS:
        raise ValueError(f"{beside} names the method {method!r}, expected one of {', '.join(METHODS)}")
    codec_file = path.with_suffix(".codec.json")
    codec = Codec.load(codec_file) if codec_file.is_file() else None
    if codec is not None and codec.width != len(matrix):
        raise ValueError(f"{codec_file} is for {codec.width} numbers, {path} for {len(matrix)}: fit them again")
    return Adaptation(matrix.astype(np.float32), check_dims(dims, len(matrix)), method, facts, codec)


def matrix_file(file: str | Path) -> Path:
    """The path, if it can hold a matrix; ValueError unless it ends in ``.npy``."""
    path = Path(file)
    if path.suffix != ".npy":
        raise ValueError(f"a matrix is written to a .npy file, got {path}: try {path.with_suffix('.npy')}")
    return path


def apply(model: MatryoshkaEncoder, adaptation: Adaptation) -> MatryoshkaEncoder:
    """Put the matrix into the model as sentence-transformers' own ``Dense`` layer, without bias and activation.

    It stands before a last ``Normalize``, else at the end. Length does not matter to cosines, so either place gives
    the same vectors. The saved model loads in plain sentence-transformers.

    Returns:
        The same model; its ``matryoshka_dims`` and ``codec`` are the adaptation's.

    Raises:
        ValueError: the model's vectors have another width.
    """
    if model.width != adaptation.width:
        raise ValueError(f"the adaptation is for vectors of {adaptation.width} numbers, the model's have {model.width}")
    add_linear(model, torch.from_numpy(adaptation.matrix.T.copy()))  # a linear layer multiplies by the transpose
    model.truncate_dim = None  # a cut saved with the model was of the old numbers
    model.matryoshka_dims, model.codec = adaptation.dims, adaptation.codec
    return model
