"""What a sweep measures: lines (a model, or a control of it) made of cells (a size at a precision)."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mrl_text.api.options import ApiOptions
from mrl_text.choices import AutoBackend, Dtype
from mrl_text.codes import FEW_BITS, FewBits
from mrl_text.layers import check_layers, peek_layers
from mrl_text.models import ModelSource, find_any_model, find_model, peek_width
from mrl_text.suggest import check_choice
from mrl_text.truncation import PRECISIONS, Precision, bytes_per_vector, check_dims, halves

from .given_vectors import VectorSource

logger = logging.getLogger(__name__)

Method = Literal["truncation", "pca", "random", "pq", "rabitq"]
Control = Literal["base", "pca", "random", "pq", "rabitq"]
CONTROLS: tuple[Control, ...] = ("base", "pca", "random")
"""Those that cost next to nothing: product quantisation learns its centroids for every size."""
EVALUATED_PRECISIONS: tuple[Precision, ...] = ("float32", "float16", *FEW_BITS)
RANDOM_SEEDS = (0, 1, 2)
_QUANTISERS = ("pq", "rabitq")
_METHODS_OF_CONTROLS: tuple[Literal["pca", "random", "pq", "rabitq"], ...] = ("pca", "random", "pq", "rabitq")
_OF_THE_LINE = ("dtype", "num_layers")  # in the folder name of the line already

_METHOD_LABELS = {
    "truncation": "",
    "pca": "PCA",
    "random": "random dimensions",
    "pq": "FAISS PQ",
    "rabitq": "FAISS RaBitQ",
}
_RABITQ = ("RaBitQ", "RaBitQ2", "RaBitQ4")
_FACTORY_WORD = re.compile(r"(PQ|RaBitQ)(\d*)")

Comparison = Literal["asymmetric", "symmetric"]
COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)


@dataclass(frozen=True, order=True)
class Cell:
    """A size at a precision, and how queries meet what is stored.

    Args:
        dim: numbers kept.
        precision: what each is stored in; in controls the word of FAISS's index factory: ``PQ32`` is 32 bytes,
            ``RaBitQ4`` is 4 bits a number and what FAISS keeps besides.
        comparison: ``asymmetric`` leaves queries in float32; ``symmetric`` codes them as documents are coded. Stored
            floats have one comparison only, ``asymmetric``.
        rescore: candidates, in multiples of the results asked for, that are put in order again by full width in
            float32 from disk; 0 is one stage.
    """

    dim: int
    precision: str = "float32"
    comparison: Comparison = "asymmetric"
    rescore: int = 0

    @property
    def bytes(self) -> int:
        """Bytes that one stored vector takes in memory; two stages need the full vector on disk besides."""
        if self.precision in PRECISIONS:
            return bytes_per_vector(self.dim, self.precision)
        word = _FACTORY_WORD.fullmatch(self.precision)
        if word is None:
            raise ValueError(f"precision {self.precision!r} is unknown: FAISS's words are PQ32, RaBitQ, RaBitQ4")
        number = int(word[2] or 1)
        if word[1] == "PQ":
            return number
        return -(-self.dim // 8) + -(-self.dim * (number - 1) // 8) + (8 if number == 1 else 20)  # signs, bits, factors

    @property
    def label(self) -> str:
        """Size, precision and, where they are not the usual ones, comparison and stages, in words."""
        symmetric = ", symmetric" if self.comparison == "symmetric" else ""
        return f"{self.dim} x {self.precision}{symmetric}" + (f", rescored {self.rescore}x" if self.rescore else "")

    @property
    def place(self) -> tuple[int, int, str, str, int]:
        """Sorts cells from the largest size down, those of a size by bits, then by comparison and stages."""
        return -self.dim, -self.bytes, self.precision, self.comparison, self.rescore

    @property
    def sequence(self) -> tuple[str, str, int]:
        """What cells of different size have in common that are tried one after the other."""
        return self.precision, self.comparison, self.rescore

    @property
    def few_bits(self) -> FewBits | None:
        """The precision, where a fitted codec makes the codes: in int8 and binary sentence-transformers' own codes are
        compared with each other.
        """
        own = self.comparison == "symmetric" and self.precision in ("int8", "binary")
        return None if own else next((bits for bits in FEW_BITS if bits == self.precision), None)


@dataclass(frozen=True)
class Line:
    """One line in a figure: a model, its untrained base, or another way to make its vectors smaller."""

    model: str
    revision: str
    role: str = "model"
    """``"model"``, or ``"control"`` for what a model is compared with."""
    method: Method = "truncation"
    """How vectors are made smaller: their first numbers, principal components, or random numbers of them."""
    dtype: str = "float32"
    """What the model computes in; behind the backend and a hyphen where that is not torch."""
    layers: int | None = None
    """Transformer layers kept; None is all of them."""

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        name = self.model.removeprefix("local/").rpartition("/")[2]
        base = "untrained base" if self.role == "control" and self.method == "truncation" else ""
        notes = [note for note in (base, _METHOD_LABELS[self.method], self.depth) if note]
        return f"{name} ({', '.join(notes)})" if notes else name

    @property
    def depth(self) -> str:
        """How many layers are kept, in words; empty where all are."""
        return "" if self.layers is None else f"{self.layers} layer{'s' if self.layers > 1 else ''}"

    @property
    def computing(self) -> dict[str, Any]:
        """Backend and type, as :func:`mrl_text.loading.cached` takes them."""
        backend, _, dtype = self.dtype.rpartition("-")
        return {"backend": backend or "torch", "dtype": dtype}

    @property
    def slug(self) -> str:
        """Folder name for what belongs to these weights and layers computed in this type."""
        kind = "" if self.dtype == "float32" else f"-{self.dtype}"
        kind += "" if self.layers is None else f"-{self.layers}layers"
        return f"{self.model.replace('/', '__')}-{self.revision}{kind}"

    def variants(self, cell: Cell) -> list[Variant]:
        """What is evaluated for a cell: one thing, or one per seed for random dimensions."""
        seeds = RANDOM_SEEDS if self.method == "random" else (None,)
        return [Variant(self, cell, seed) for seed in seeds]


@dataclass(frozen=True)
class Variant:
    """One evaluation of a task: a line, a cell and, for random dimensions, a seed."""

    line: Line
    cell: Cell
    seed: int | None = None

    @property
    def experiment(self) -> dict[str, str | int]:
        """What distinguishes the result from others of the same model, as mteb's ``experiment_kwargs``.

        mteb files results under it; without the size in it every size would read the first size's scores.
        ``output_dtypes`` is mteb's own word for the precision of stored vectors, of queries and documents alike.
        """
        kwargs: dict[str, str | int] = {"embed_dim": self.cell.dim}
        if self.line.dtype != "float32":
            kwargs["dtype"] = self.line.dtype
        if self.line.layers is not None:
            kwargs["num_layers"] = self.line.layers
        if self.cell.precision != "float32":
            kwargs["output_dtypes"] = self.cell.precision
        if self.cell.comparison == "asymmetric" and not self.cell.precision.startswith("float"):
            kwargs["comparison"] = self.cell.comparison
        if self.cell.rescore:
            kwargs["rescore"] = self.cell.rescore
        if self.line.method != "truncation":
            kwargs["reduction"] = self.line.method if self.seed is None else f"{self.line.method}-{self.seed}"
        return kwargs

    @property
    def fitted(self) -> bool:
        """Whether something is measured on a corpus to make it."""
        by_method = self.line.method == "pca" or self.quantised
        return by_method or self.cell.precision in ("int8", "int4", "int2")

    @property
    def quantised(self) -> bool:
        """Whether FAISS's own quantiser makes the codes."""
        return self.line.method in _QUANTISERS

    @property
    def by_hamming(self) -> bool:
        """Whether queries are bits, too, and compared by how many of them differ."""
        return self.cell.precision == "binary" and self.cell.comparison == "symmetric"

    @property
    def slug(self) -> str:
        """Folder name of the variant among those of its model."""
        return "__".join(f"{key}_{value}" for key, value in sorted(self.experiment.items()) if key not in _OF_THE_LINE)


@dataclass(frozen=True)
class SweepPlan:
    """A line with where its model comes from and the cells to evaluate."""

    line: Line
    source: ModelSource
    cells: tuple[Cell, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes, ascending."""
        return tuple(sorted({cell.dim for cell in self.cells}))


def plan_lines(
    models: Sequence[str | ModelSource],
    *,
    dims: Sequence[int] | None = None,
    precisions: Sequence[Precision] = EVALUATED_PRECISIONS,
    comparisons: Sequence[Comparison] = ("asymmetric",),
    rescore: int = 0,
    controls: Sequence[Control] = CONTROLS,
    backend: AutoBackend = "torch",
    dtype: Dtype = "float32",
    device: str | None = None,
    layers: Sequence[int] | None = None,
    trust_remote_code: bool = False,
    api: ApiOptions | None = None,
) -> list[SweepPlan]:
    """Resolve models into lines, each model followed by its controls; models that appear twice are planned once.

    A model is planned at every size, precision and comparison (:func:`plan_cells`), and always at full width in
    float32, since retention is measured against that. Controls are planned in float32, FAISS's quantisers as
    :func:`control_cells` says. With ``layers`` the same model follows at each depth below its own, with its base cut
    to the same depth. Code that comes with a model or its base runs only where it is trusted. A model
    ``openai:NAME`` is where ``api`` says, and is asked how wide its vectors are.

    Raises:
        ConnectionError: an API does not answer.
        FileNotFoundError: no such model.
        ValueError: no model, an unknown precision, comparison or control, or sizes or depths no model has.
    """
    if not models:
        raise ValueError("no model given")
    check_plan(dims, precisions, comparisons, rescore, controls, layers)  # before models are looked for
    depths = sorted(set(layers or ()), reverse=True)
    if not {*_QUANTISERS}.isdisjoint(controls):
        from . import quantisers  # noqa: F401  # which need FAISS
    plans: list[SweepPlan] = []

    @functools.cache
    def computed_by(source: ModelSource) -> str:
        if source.api is not None:
            return "float32"
        if backend == "torch" or isinstance(source, VectorSource):
            return dtype
        from mrl_text.loading import choose_backend

        chosen = choose_backend(source, dtype=dtype, device=device) if backend == "auto" else backend
        return dtype if chosen == "torch" else f"{chosen}-{dtype}"

    def add(
        source: ModelSource,
        sizes: tuple[int, ...],
        role: str = "control",
        method: Method = "truncation",
        depth: int | None = None,
    ) -> None:
        cells = {*control_cells(method, sizes)}
        if role == "model":
            cells = {Cell(sizes[-1]), *plan_cells(sizes, precisions, comparisons, rescore)}
        if not cells:
            return
        line = Line(source.name, source.revision, role, method, computed_by(source), depth)
        plans.append(SweepPlan(line, source, tuple(sorted(cells, key=lambda cell: cell.place))))

    for name in models:
        source = find_any_model(name, trust_remote_code=trust_remote_code, api=api)
        own = _sizes(source, dims)
        add(source, own, "model")
        base = _base(source) if "base" in controls else None
        if base is not None:
            add(base, _sizes(base, own))
        for method in _METHODS_OF_CONTROLS:
            if method in controls:
                add(source, own, method=method)
        for depth in _depths(source, depths):
            add(source, own, "model", depth=depth)
            if base is not None and depth in _depths(base, depths):
                add(base, _sizes(base, own), depth=depth)
    if dims and (highest := max(max(plan.dims) for plan in plans)) < max(dims):
        raise ValueError(f"dims asks for {max(dims)}, but the widest of these models has {highest} numbers")
    if depths and depths[0] > (deepest := max(peek_layers(plan.source) or 0 for plan in plans)):
        raise ValueError(f"layers asks for {depths[0]}, but the deepest of these models has {deepest}")
    unique: dict[tuple[str, str, str, int | None], SweepPlan] = {}
    for plan in plans:
        key = plan.line.model, plan.line.revision, plan.line.method, plan.line.layers
        if key not in unique or (unique[key].line.role == "control" and plan.line.role == "model"):
            unique.pop(key, None)  # a base that is a model itself stands before its own controls, not among another's
            unique[key] = plan
    return list(unique.values())


def check_plan(
    dims: Sequence[int] | None,
    precisions: Sequence[Precision],
    comparisons: Sequence[Comparison],
    rescore: int,
    controls: Sequence[Control],
    layers: Sequence[int] | None,
) -> None:
    """Refuse with ``ValueError`` what :func:`plan_lines` could plan for no model; no library is imported for it."""
    if dims:
        check_dims(dims)
    plan_cells((), precisions, comparisons, rescore)
    for control in controls:
        check_choice("control", control, Control)
    for number in layers or ():
        check_layers(number, None)


def plan_cells(
    dims: Sequence[int],
    precisions: Sequence[Precision] = EVALUATED_PRECISIONS,
    comparisons: Sequence[Comparison] = ("asymmetric",),
    rescore: int = 0,
) -> list[Cell]:
    """The grid: every size in every precision, and each of them in every comparison it has.

    With ``rescore`` each follows once more with two stages, but for the largest size in float32, which stays the same.

    Raises:
        ValueError: an unknown precision or comparison, ``symmetric`` where nothing is coded, or ``rescore`` below 0.
    """
    if isinstance(rescore, bool) or not isinstance(rescore, int) or rescore < 0:
        raise ValueError(f"rescore is a whole number of candidates for each result, such as 10, or 0; got {rescore!r}")
    for precision in precisions:
        check_choice("precision", precision, EVALUATED_PRECISIONS)
    for comparison in comparisons:
        check_choice("comparison", comparison, Comparison)
    coded = [precision for precision in precisions if precision in FEW_BITS]
    if "symmetric" in comparisons and not coded:
        given = ", ".join(precisions)
        raise ValueError(f"symmetric compares codes with codes, and of {given} none is coded: leave comparisons out")
    kinds = [(one, kind) for one in precisions for kind in (comparisons if one in coded else ("asymmetric",))]
    cells = [Cell(dim, precision, comparison) for dim in dims for precision, comparison in kinds]
    again = cells if rescore else []
    return cells + [replace(cell, rescore=rescore) for cell in again if cell != Cell(max(dims))]


def control_cells(method: Method, dims: Sequence[int]) -> list[Cell]:
    """What a control is evaluated at beside these sizes of a model, the largest of which is its full width.

    FAISS's product quantisation codes the full width in as many bytes as codes of few bits take, where it can be cut
    into so many parts, at least four numbers each. RaBitQ codes every size in one, two and four bits a number. All
    others are float32; random dimensions are drawn below full width, where they are not the model itself.
    """
    width = max(dims)
    if method == "pq":
        sizes = {cell.bytes for cell in plan_cells(dims, FEW_BITS)}
        return [Cell(width, f"PQ{size}") for size in sizes if width % size == 0 and size <= width // 4]
    if method == "rabitq":
        return [Cell(dim, word) for dim in dims for word in _RABITQ]
    return [Cell(dim) for dim in dims if method != "random" or dim < width]


def _base(source: ModelSource) -> ModelSource | None:
    """The untrained base of a model, where it names one that can be found."""
    if source.base_model is None:
        return None
    try:
        base = find_model(source.base_model, trust_remote_code=source.trust_remote_code)
        peek_width(base)
        return base
    except FileNotFoundError as error:
        logger.warning("%s is shown without the untrained base: %s", source.name, error)
        return None


def _depths(source: ModelSource, depths: Sequence[int]) -> list[int]:
    """Which of the wanted depths are below the model's own, which is there anyway."""
    if not depths or source.api is not None:
        return []
    full = peek_layers(source)
    if full is None:
        raise ValueError(f"{source.name} does not tell how many layers it has: leave layers out")
    return [depth for depth in depths if depth < full]


def _sizes(source: ModelSource, dims: Sequence[int] | None) -> tuple[int, ...]:
    wanted = check_dims(dims) if dims else source.matryoshka_dims
    width = source.width if isinstance(source, VectorSource) else peek_width(source)
    if width is None:
        from mrl_text.loading import full_width  # with the weights, which most plans do without

        width = full_width(source)
    wanted = wanted or halves(width)
    if wider := [str(dim) for dim in wanted if dim > width]:
        logger.info("%s has %d numbers: %s left out for it", source.name, width, ", ".join(wider))
    return check_dims([*(dim for dim in wanted if dim <= width), width])
