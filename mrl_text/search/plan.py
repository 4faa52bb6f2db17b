"""How an index searches: which prefix finds the candidates, and which sizes put them in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, get_args

from mrl_text.choices import Code, Kind, RaBitQ
from mrl_text.suggest import check_choice, did_you_mean
from mrl_text.truncation import bytes_per_vector, check_dim, check_dims

KINDS: tuple[Kind, ...] = get_args(Kind)
CODES: tuple[Code, ...] = get_args(Code)
SHARING: dict[Code, int] = {"int4": 1, "int2": 2, "int1": 4}  # numbers that share four bits in FAISS
_CONSTRUCTION = 100  # candidates: the 40 of FAISS cost recall, more cost minutes
_LONGEST_VIEW = 10_000


def rabitq_bits(precision: Code) -> int:
    """Bits of a number in FAISS's RaBitQ; 0 for a precision that is another code."""
    if precision == "binary":
        return 1
    return int(precision.removeprefix("RaBitQ").removeprefix("fs") or 1) if precision in get_args(RaBitQ) else 0


def misfit(plan: SearchPlan) -> str:
    """Why FAISS cannot store the shortlist of a plan so, and what it can; empty where it can."""
    if plan.precision == "int1.5":
        return "int1.5 is for Qdrant: choose int1 or int2 in FAISS"
    if plan.kind == "hnsw" and (plan.precision in SHARING or rabitq_bits(plan.precision)):
        return f"{plan.precision} is for flat and ivf in FAISS: choose one of them, or int8 with hnsw"
    if plan.dim % (shared := SHARING.get(plan.precision, 1)):
        return f"{plan.precision} codes {shared} numbers together, and {plan.dim} is no multiple: choose another dim"
    return ""


def fast(precision: Code) -> bool:
    """Whether FAISS compares such codes by lookups in registers (FastScan, arXiv 1812.09162)."""
    return precision in SHARING or precision.startswith("RaBitQfs")


def cells(count: int, precision: Code = "float32") -> int:
    """Cells that ``count`` vectors are sorted into: 4 * sqrt(n), as FAISS advises, and at least 16 vectors in each.

    Of codes that FastScan compares as they are an eighth of that: a cell costs a few microseconds whatever is in it,
    and comparing costs so little that larger cells pay. RaBitQ codes what is left of a vector in its cell, and is the
    worse for larger ones.
    """
    advised = 4 * math.sqrt(count) / (8 if precision in SHARING else 1)
    return max(1, min(int(advised), count // 16))


@dataclass(frozen=True)
class SearchPlan:
    """Candidates by a prefix, order by more of the vector (adaptive and funnel retrieval, arXiv 2205.13147, 4.3).

    A search compares the first ``dim`` numbers of the query with the index and keeps ``shortlist`` candidates. Each
    step of ``rerank`` compares them at a larger size and keeps fewer; the last step orders what is left at ``final``.

    Args:
        dim: numbers of the prefix that is held in memory.
        kind: ``flat`` compares with every vector; ``hnsw`` walks a graph of neighbours; ``ivf`` looks into some of
            :func:`cells` cells, and takes 8 bytes a vector for its place.
        precision: what the prefix is stored in. ``int4`` is 4 bits a number at learned levels, compared by lookups in
            registers (a product quantiser with one number each; FastScan, arXiv 1812.09162), many times faster than
            the others. In ``int2`` two numbers share four bits, in ``int1`` four (one of 16 learned points), and it is
            faster still. ``binary`` is one bit a number (RaBitQ, arXiv 2405.12497, after a random rotation of the
            prefix) plus 8 bytes a vector; ``RaBitQ2`` to ``RaBitQ8`` have more bits and 20 bytes, and ``RaBitQfs`` to
            ``RaBitQfs8`` are the same with FastScan. All these are for ``flat`` and ``ivf`` in FAISS. In pgvector
            ``binary`` is one bit a number; in Qdrant ``binary``, ``int1.5`` and ``int2`` are its binary quantisation.
        shortlist: candidates that the prefix hands over; a search for more results than that asks for as many.
        rerank: steps between, each the size and how many candidates go on: ``((128, 50),)``.
        final: size of the last step; None is the full width. Equal to ``dim``: there is none, and the order is that of
            the prefix. None with ``dim`` the full width: a last step where the precision is int8 or fewer bits.
        effort: ``hnsw``: candidates the walk keeps in view (``efSearch``; at least the shortlist is used). ``ivf``:
            cells looked into (``nprobe``). ``flat`` has no use for it.
        neighbours: edges of a vector in the graph of ``hnsw`` (``M``).
        ef_construction: candidates that stay in view while the graph of ``hnsw`` is built: more find better edges and
            take longer. None is 100, or twice the neighbours if that is more.

    Raises:
        ValueError: an unknown kind or precision, sizes that do not grow, or candidates that do not shrink.

    Example:
        >>> SearchPlan(64, shortlist=200).label
        '64 float32 flat, 200 → full'
    """

    dim: int
    kind: Kind = "flat"
    precision: Code = "float32"
    shortlist: int = 200
    rerank: tuple[tuple[int, int], ...] = ()
    final: int | None = None
    effort: int = 128
    neighbours: int = 16
    ef_construction: int | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, Kind)
        check_choice("precision", self.precision, Code)
        for name in ("dim", "shortlist", "effort", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kind == "hnsw" and self.neighbours < 2:
            raise ValueError("neighbours must be at least 2 for a graph")
        if self.ef_construction is not None:
            if self.kind != "hnsw":
                raise ValueError(f"ef_construction is for hnsw, and {self.kind} builds no graph: leave it out")
            if not max(4, self.neighbours) <= self.ef_construction <= _LONGEST_VIEW:
                raise ValueError(
                    f"ef_construction must be from {max(4, self.neighbours)} (the neighbours) to {_LONGEST_VIEW:,}, got"
                    f" {self.ef_construction}"
                )
        sizes = [self.dim, *(dim for dim, _ in self.rerank), *([self.final] if self.final and not self.single else [])]
        if any(later <= earlier for earlier, later in pairwise(sizes)):
            raise ValueError(f"sizes must grow from step to step, got {' → '.join(map(str, sizes))}")
        kept = [self.shortlist, *(keep for _, keep in self.rerank)]
        if min(kept) < 1 or any(later > earlier for earlier, later in pairwise(kept)):
            raise ValueError(f"candidates must not grow from step to step, got {' → '.join(map(str, kept))}")

    @classmethod
    def funnel(cls, dims: Sequence[int], *, shortlist: int = 200, **options: Any) -> SearchPlan:
        """Shortlists that halve while sizes grow: 200 → 100 → 50 → 25 → ..., the paper's shape.

        Args:
            dims: two sizes or more; the first finds, the last orders.
            shortlist: candidates of the first.
            **options: as for :class:`SearchPlan`.

        Returns:
            The plan.

        Raises:
            ValueError: fewer than two sizes, or an option that does not fit.

        Example:
            >>> SearchPlan.funnel([32, 64, 128, 384]).rerank
            ((64, 100), (128, 50))
        """
        sizes = check_dims(dims)
        if len(sizes) < 2:
            raise ValueError(f"a funnel needs two sizes or more, got {list(dims)}")
        steps = tuple((dim, max(1, shortlist >> step)) for step, dim in enumerate(sizes[1:-1], 1))
        return cls(sizes[0], shortlist=shortlist, rerank=steps, final=sizes[-1], **options)

    @property
    def single(self) -> bool:
        """Whether the prefix alone decides."""
        return self.final == self.dim and not self.rerank

    @property
    def coarse(self) -> bool:
        """Whether the prefix is stored in less than floats."""
        return self.precision not in ("float32", "float16")

    @property
    def in_cells(self) -> bool:
        """Whether FAISS keeps the prefixes in cells: FastScan can leave rows out only there, if need be of one."""
        return self.kind == "ivf" or fast(self.precision)

    @property
    def label(self) -> str:
        """The plan in a few words."""
        found = f"{self.dim} {self.precision} {self.kind}"
        if self.single:
            return found
        between = "".join(f" → {dim}, {keep}" for dim, keep in self.rerank)
        return f"{found}, {self.shortlist}{between} → {self.final or 'full'}"

    @property
    def construction(self) -> int:
        """Candidates that stay in view while a graph is built."""
        return self.ef_construction or max(_CONSTRUCTION, 2 * self.neighbours)

    def steps(self, width: int, k: int) -> list[tuple[int, int]]:
        """What follows the shortlist of a search for ``k``: sizes, each with the candidates it is given.

        Args:
            width: full width of the vectors.
            k: results wanted; no step hands over fewer.

        Returns:
            (size, candidates) of each step; empty where the prefix alone decides.
        """
        # the same numbers in full still sort better than codes
        if self.single or (self.dim == width and not self.rerank and not self.coarse):
            return []
        kept = [max(k, self.shortlist), *(max(k, keep) for _, keep in self.rerank)]
        return list(zip([*(dim for dim, _ in self.rerank), self.final or width], kept, strict=True))

    def last_dim(self, width: int) -> int:
        """Size of the vectors that decide on the order."""
        return self.dim if self.single else self.final or width

    def check(self, width: int) -> SearchPlan:
        """This plan, if vectors of that width can be searched by it; ValueError for a size above ``width``."""
        for dim in (self.dim, *(dim for dim, _ in self.rerank), *([self.final] if self.final else [])):
            check_dim(dim, width)
        if self.rerank and self.final is None and self.rerank[-1][0] >= width:
            raise ValueError(f"the last step of rerank is the full width, {width}, already: leave it out")
        return self

    def shares_shortlist(self, other: SearchPlan) -> bool:
        """Whether both search the same prefix in the same structure, so that one can stand in for the other."""
        same = all(getattr(self, name) == getattr(other, name) for name in ("dim", "kind", "precision"))
        graphs = [(plan.neighbours, plan.construction) for plan in (self, other) if plan.kind == "hnsw"]
        return same and len(set(graphs)) <= 1

    def code_bytes(self) -> int:
        """Bytes of FAISS for the prefix of one vector, with its place where there are cells, without edges."""
        place = 8 if self.in_cells else 0
        if self.precision in SHARING:
            return -(-self.dim // (2 * SHARING[self.precision])) + place
        if bits := rabitq_bits(self.precision):
            signs, rest = bytes_per_vector(self.dim, "binary"), -(-self.dim * (bits - 1) // 8)
            return signs + rest + (20 if rest else 8) + place
        return bytes_per_vector(self.dim, self.precision) + place  # type: ignore[arg-type]  # a precision of vectors

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {**asdict(self), "rerank": [list(step) for step in self.rerank]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SearchPlan:
        """The plan that :meth:`to_json` gave; ValueError for a name that no plan has."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"a search plan has no {sorted(unknown)[0]!r}{did_you_mean(sorted(unknown)[0], known)}")
        plan = cls(**{**values, "rerank": ()})
        return replace(plan, rerank=tuple((int(dim), int(keep)) for dim, keep in values.get("rerank", ())))
