"""Reads the bytes of a request, and turns vectors into the bytes of an answer."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from mrl_text.serving.errors import ApiError, shown
from mrl_text.suggest import did_you_mean

_SURROGATE = re.compile("[\ud800-\udfff]")
_INPUT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    ],
    "description": "One text or a list of texts.",
}


OutputDtype = Literal["float", "int8", "uint8", "binary", "ubinary"]  # the words of Voyage's and Cohere's interfaces


class Body(BaseModel):
    """Body of a request. Texts of users are checked by :func:`read_inputs`, which names the first bad entry."""

    model_config = ConfigDict(extra="forbid", strict=True)


Asked = TypeVar("Asked", bound=Body)


class EmbeddingRequest(Body):
    """Body of ``POST /v1/embeddings``."""

    input: Any = Field(json_schema_extra=_INPUT_SCHEMA)
    model: str
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    output_dtype: OutputDtype | None = "float"
    user: str | None = None
    input_type: Literal["query", "document"] | None = None
    prompt_name: str | None = None


class SearchRequest(Body):
    """Body of ``POST /search``."""

    query: Any = Field(description="A text, a list of texts, a vector or a list of vectors of full width.")
    model: str | None = None
    k: int = Field(10, validation_alias=AliasChoices("k", "limit"), description="Results for each query.")
    filter: Any = Field(
        None,
        description='What rows must be: {"lang": ["en", "de"], "year": {"gte": 2020}},'
        ' or conditions as of mrl-text search --where: ["lang=en,de", "year>=2020"].',
    )
    exact: bool = Field(False, description="Compare with every row at full width.")
    return_documents: bool = Field(True, description="Whether results have their text and columns.")


class RerankRequest(Body):
    """Body of ``POST /rerank``; scores are cosines of the served model, not those of a cross-encoder."""

    query: Any = Field(json_schema_extra={"type": "string", "minLength": 1})
    documents: Any = Field(description="A list of texts, or of objects that have one at text.")
    model: str | None = None
    top_n: int | None = Field(None, description="Results; null is all documents.")
    return_documents: bool = False


def parse_request(body: bytes, kind: type[Asked]) -> Asked:
    """Read the body of a request.

    Raises:
        ApiError: 400 with the first thing that is wrong: not UTF-8, not JSON, a key twice, NaN, nested too deep, an
            unknown or missing field, a wrong type.
    """
    try:
        content = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 (byte {error.start})", code="invalid_json") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ApiError(400, f"the body is not JSON: {error.msg} ({where})", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deep", code="invalid_json") from None
    except ValueError:  # a whole number of thousands of digits
        raise ApiError(400, "the body holds a number that is too long", code="invalid_json") from None
    if not isinstance(content, dict):
        fields = ", ".join(f'"{name}": ...' for name, field in kind.model_fields.items() if field.is_required())
        raise ApiError(400, f"the body must be a JSON object, such as {{{fields}}}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _refusal(error, kind) from None


def read_inputs(
    given: Any, *, limit: int, token_ids: bool = False, field: str = "input"
) -> list[str] | list[list[int]]:
    """The texts of a request as a list.

    Args:
        given: a text, a list of texts or, with ``token_ids``, a list of ids or of lists of ids.
        limit: how many there may be.
        token_ids: take ids, too.
        field: where they were given.

    Raises:
        ApiError: 400 with the position of the first entry that is not allowed.
    """
    entries = given if isinstance(given, list) else [given]
    if entries and all(type(entry) is int for entry in entries):
        entries = [entries]
    if not entries:
        _bad(field, f"{field} is an empty list: send at least one text")
    if len(entries) > limit:
        _bad(field, f"{field} has {len(entries)} entries, and at most {limit} are allowed: send several requests")
    kind = type(entries[0])
    if kind not in (str, list):
        _bad(field, f"{field} must be a text or a list of texts, got {_name(entries[0])}")
    for position, entry in enumerate(entries):
        if type(entry) is not kind:
            _bad(field, f"{field}[{position}] must be {_name(entries[0])} like the first, got {_name(entry)}")
        if not entry:
            _bad(field, f"{field}[{position}] is empty: leave it out")
        if isinstance(entry, str) and not entry.isascii() and _SURROGATE.search(entry):
            _bad(field, f"{field}[{position}] has half of a surrogate pair: it is no valid text")
        if kind is list and not all(type(number) is int for number in entry):
            _bad(field, f"{field}[{position}] must be a text, got a list")
    if kind is list and not token_ids:
        _bad(
            field,
            f"{field} holds token ids, which mean something to one tokenizer only: send text"
            " (LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False)",
        )
    return entries


def read_documents(given: Any, *, limit: int) -> list[str]:
    """Documents of a request: texts, or objects that have one at ``text``; errors as of :func:`read_inputs`."""
    if not isinstance(given, list):
        _bad("documents", f"documents must be a list, got {_name(given)}")
    texts: Any = read_inputs(
        [one["text"] if isinstance(one, dict) and one.keys() == {"text"} else one for one in given],
        limit=limit,
        field="documents",
    )
    return list(texts)


def render_response(vectors: np.ndarray, *, model: str, encoding_format: str | None, tokens: int) -> bytes:
    """The body of an answer.

    Args:
        vectors: (n, dim), in the order of the inputs.
        encoding_format: ``base64`` writes little-endian float32; otherwise lists of numbers.
    """
    rows: list[Any]
    if encoding_format == "base64":
        rows = [base64.b64encode(row).decode("ascii") for row in vectors.astype("<f4", copy=False)]
    else:
        rows = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return to_json({"object": "list", "data": data, "model": model, "usage": usage})


def _refusal(error: ValidationError, kind: type[Body]) -> ApiError:
    """Describe the first problem; ``input``, which is text of users, is never quoted."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])[:60] if first["loc"] else None
    if name is None:
        message = "the name of a field has half of a surrogate pair: it is no valid text"
    elif first["type"] == "extra_forbidden":
        message = f"unknown field {name!r}{did_you_mean(name, kind.model_fields)}"
    elif first["type"] == "missing":
        message = f"the field {name!r} is missing"
    else:
        message = f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}, got {shown(first['input'])}"
    return ApiError(400, message, param=name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ApiError(400, f"the body has the key {shown(twice)} twice in one object", code="invalid_json")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ApiError(400, f"{name} is not a JSON value: send a number", code="invalid_json")


def _name(value: Any) -> str:
    names = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names[type(value)]


def _bad(field: str, message: str) -> NoReturn:
    raise ApiError(400, message, param=field)
