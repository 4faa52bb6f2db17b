"""What is asked of Qdrant: vectors by size, search stages, filters, points. Nothing here talks to a server."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import qdrant_client

from mrl_text.choices import Code
from mrl_text.search.columns import ColumnType
from mrl_text.search.filters import Condition, Conditions, Either
from mrl_text.search.plan import SearchPlan
from mrl_text.search.store import Prefix, Range
from mrl_text.truncation import truncate

models: Any = qdrant_client.models
ID, TEXT = "mrl_text_id", "mrl_text"
"""Names in the payload of a point, beside the user's own columns."""

_NAMESPACE = uuid.UUID("7d6b1a52-0d6f-5c0e-9d2c-2f2f6a5a4b8e")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_DIGITS = 7  # of a unit vector's numbers; float32 has no more, and JSON is half as long
_BYTES_A_NUMBER = 11
_BITS: dict[Code, Any] = {
    "binary": models.BinaryQuantizationEncoding.ONE_BIT,
    "int1.5": models.BinaryQuantizationEncoding.ONE_AND_HALF_BITS,
    "int2": models.BinaryQuantizationEncoding.TWO_BITS,
}
INDEX_TYPES: dict[ColumnType, str] = {"text": "keyword", "int": "integer", "float": "float", "bool": "bool"}


def vector_name(dim: int, width: int, precision: str = "float16") -> str:
    """Name of the vectors of a size in a collection: ``64``, stored as float16, or ``64_float32``.

    Full vectors have one form, float16, so that they are kept once.
    """
    return f"{dim}_float32" if precision == "float32" and dim < width else str(dim)


def vector_dim(name: str) -> int:
    """The size that :func:`vector_name` put into a name."""
    return int(name.partition("_")[0])


def vectors_config(plan: SearchPlan | None, width: int) -> dict[str, Any]:
    """Vectors that a collection needs for a plan.

    Full vectors and those of steps between are float16 on disk without a graph: they only put candidates in order. The
    prefix that finds these is in memory, with a graph if the plan has one, or on disk with its codes in memory.

    Returns:
        ``models.VectorParams`` by name, the full width among them.

    Raises:
        ValueError: a plan that Qdrant cannot follow: cells, another engine's codes, or a size above ``width``.
    """
    full = {vector_name(width, width): _vector(width, on_disk=True)}
    if plan is None:
        return full
    if plan.kind == "ivf":
        raise ValueError("Qdrant has no ivf: choose kind hnsw or flat")
    if plan.coarse and plan.precision not in ("int8", *_BITS):
        known = ", ".join(("float32", "float16", "int8", *_BITS))
        raise ValueError(f"Qdrant does not keep a prefix in {plan.precision}: choose one of {known}")
    plan.check(width)
    config = full | {vector_name(dim, width): _vector(dim, on_disk=True) for dim, _ in plan.steps(width, 1)}
    codes: Any = None
    if plan.precision == "int8":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        codes = models.ScalarQuantization(scalar=scalar)
    elif plan.precision in _BITS:
        # a query of 8 bits a number against the bits of the rows, which cost no more to keep
        query = models.BinaryQuantizationQueryEncoding.SCALAR8BITS
        binary = models.BinaryQuantizationConfig(always_ram=True, encoding=_BITS[plan.precision], query_encoding=query)
        codes = models.BinaryQuantization(binary=binary)
    name = vector_name(plan.dim, width, plan.precision)
    datatype = models.Datatype.FLOAT32 if name.endswith("float32") else models.Datatype.FLOAT16
    graph = {"m": plan.neighbours, "ef_construct": plan.construction} if plan.kind == "hnsw" else None
    config[name] = _vector(plan.dim, graph, on_disk=codes is not None, datatype=datatype, quantization_config=codes)
    return config


def _vector(
    dim: int, graph: dict[str, int] | None = None, *, datatype: Any = models.Datatype.FLOAT16, **options: Any
) -> Any:
    how = models.HnswConfigDiff(**(graph or {"m": 0}))
    same = {"size": dim, "distance": models.Distance.COSINE, "hnsw_config": how}
    return models.VectorParams(**same, datatype=datatype, **options)


def config_change(params: Any) -> Any:
    """What makes a vector that is there like ``params``, as far as Qdrant can change it."""
    codes = params.quantization_config or models.Disabled.DISABLED
    return models.VectorParamsDiff(on_disk=params.on_disk, hnsw_config=params.hnsw_config, quantization_config=codes)


def search_request(
    query: np.ndarray, k: int, plan: SearchPlan | None, condition: Any = None, *, parameters: bool = True
) -> Any:
    """One search as one request: the shortlist innermost, each further step around it.

    Args:
        query: float32 unit vector (width,).
        k: results wanted.
        plan: how to search; None compares with every full vector.
        condition: ``models.Filter`` for the rows that are searched. The innermost stage applies it; later ones only
            see its candidates.
        parameters: say how to search the shortlist; the embedded mode has one way only and warns of others.

    Returns:
        ``models.QueryRequest``.
    """
    width = len(query)
    if plan is None:
        names, limits, how = [vector_name(width, width)], [k], models.SearchParams(exact=True)
    else:
        steps = plan.steps(width, k)
        names = [vector_name(plan.dim, width, plan.precision), *(vector_name(dim, width) for dim, _ in steps)]
        limits = [*(given for _, given in steps), k]
        how = _shortlist_parameters(plan, limits[0], alone=not steps)
    stages = [
        {"query": numbers(truncate(query, vector_dim(name))), "using": name, "limit": limit}
        for name, limit in zip(names, limits, strict=True)
    ]
    stages[0] |= {"filter": condition, "params": how if parameters else None}
    inner: Any = None
    for stage in stages[:-1]:
        inner = models.Prefetch(**stage, prefetch=inner)
    return models.QueryRequest(**stages[-1], prefetch=inner, with_payload=[ID])


def _shortlist_parameters(plan: SearchPlan, limit: int, *, alone: bool) -> Any:
    codes = None
    if plan.coarse:  # later steps compare real numbers; only a prefix alone must do so itself
        codes = models.QuantizationSearchParams(rescore=alone)
    if plan.kind == "hnsw":
        return models.SearchParams(hnsw_ef=max(plan.effort, limit), quantization=codes)
    return models.SearchParams(quantization=codes) if codes else models.SearchParams(exact=True)


def condition_filter(conditions: Conditions, columns: Mapping[str, ColumnType]) -> Any:
    """Checked conditions as ``models.Filter``; None where there are none."""
    return models.Filter(must=[_condition(one, columns) for one in conditions]) if conditions else None


def _condition(condition: Condition | Either, columns: Mapping[str, ColumnType]) -> Any:
    if isinstance(condition, Either):
        return models.Filter(should=[condition_filter(part, columns) for part in condition.alternatives])
    key = payload_key(condition.column)
    nothing = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    if condition.wanted is None:
        return models.Filter(must_not=[nothing]) if condition.negated else nothing
    held = _held(key, condition.wanted, columns[condition.column])
    return models.Filter(must_not=[held, nothing]) if condition.negated else held


def _held(key: str, wanted: Range | Prefix | tuple[Any, ...], type_: ColumnType) -> Any:
    """What a row with a value must meet."""

    def field(**test: Any) -> Any:
        return models.FieldCondition(key=key, **test)

    if isinstance(wanted, Range):
        return field(range=models.Range(**asdict(wanted)))
    if isinstance(wanted, Prefix):
        if not hasattr(models, "MatchPrefix"):
            raise ValueError("this qdrant-client is too old to ask for a prefix: update it, and Qdrant with it")
        return field(match=models.MatchPrefix(prefix=wanted.text))
    if type_ in ("text", "int"):
        return field(match=models.MatchAny(any=list(wanted)))
    # Qdrant matches neither floats nor several booleans: each value is a condition of its own
    either = [
        field(match=models.MatchValue(value=value))
        if type_ == "bool"
        else field(range=models.Range(gte=value, lte=value))
        for value in wanted
    ]
    return models.Filter(should=either) if either else models.HasIdCondition(has_id=[])


def payload_key(column: str) -> str:
    """The path of a column in the payload; quoted where its name would be read as a path.

    Raises:
        ValueError: a name with a quotation mark, which Qdrant's paths cannot have.
    """
    if '"' in column:
        raise ValueError(f"Qdrant cannot filter by a column called {column!r}: leave the quotation mark out")
    return column if _PLAIN_KEY.fullmatch(column) else f'"{column}"'


def point_id(id_: str) -> str:
    """Qdrant's id of a row: a UUID made from the row's id (RFC 9562, version 5), the same each time."""
    return str(uuid.uuid5(_NAMESPACE, id_))


def numbers(vectors: np.ndarray) -> Any:
    """Vectors as lists of numbers for JSON."""
    return np.round(vectors.astype(np.float64), _DIGITS).tolist()


def point_batches(
    ids: Sequence[str],
    vectors: np.ndarray,
    texts: Sequence[str | None] | None,
    columns: Mapping[str, Sequence[Any]],
    names: Sequence[str],
    most_bytes: int,
) -> Iterator[Any]:
    """Rows as ``models.Batch`` of about ``most_bytes`` of JSON each at most, in order; a longer row goes alone.

    Vectors are float32 of unit length, (n, width); ``names`` are those to make, as :func:`vector_name` gives them. A
    column's None is left out.
    """
    each = _BYTES_A_NUMBER * sum(map(vector_dim, names)) + 100
    payloads: list[dict[str, Any]] = []
    first = size = 0

    def batch() -> Any:
        block = vectors[first : first + len(payloads)]
        cut = {name: numbers(truncate(block, vector_dim(name))) for name in names}
        return models.Batch(ids=[point_id(payload[ID]) for payload in payloads], vectors=cut, payloads=payloads)

    for row, id_ in enumerate(ids):
        text = {TEXT: texts[row]} if texts is not None else {}
        own = {name: values[row] for name, values in columns.items() if values[row] is not None}
        payload = {ID: id_, **text, **own}
        long = each + sum(len(str(name)) + len(str(value).encode()) + 6 for name, value in payload.items())
        if payloads and size + long > most_bytes:
            yield batch()
            payloads, first, size = [], row, 0
        payloads.append(payload)
        size += long
    if payloads:
        yield batch()
