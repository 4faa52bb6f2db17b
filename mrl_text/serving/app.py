"""The HTTP side: paths, limits, errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from fastapi import FastAPI
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from mrl_text.search import Where
from mrl_text.serving.batching import Batcher, Closed, Overloaded
from mrl_text.serving.embedder import Embedder, Reading
from mrl_text.serving.errors import ApiError, respond, shown
from mrl_text.serving.guard import EMBEDDINGS_PATH, GET_PATHS, OPEN_PATH, POST_PATHS, RERANK_PATHS, SEARCH_PATHS, Guard
from mrl_text.serving.metrics import CONTENT_TYPE, Metrics
from mrl_text.serving.retrieval import Index, check_results, read_filter, read_query
from mrl_text.serving.schema import (
    Body,
    EmbeddingRequest,
    RerankRequest,
    SearchRequest,
    parse_request,
    read_documents,
    read_inputs,
    render_response,
)
from mrl_text.serving.settings import ServerSettings
from mrl_text.truncation import fixed_ranges, quantize, truncate

Result = TypeVar("Result")

_QUICK_BYTES = 16 * 1024  # a larger body is read in another thread, so that other requests do not wait
_LONG_BYTES = 1024 * 1024  # and one that is larger still in a third, which may take its time
_QUICK_NUMBERS = 32 * 1024  # a larger answer is written in that other thread, too


class Texts(NamedTuple):
    """Texts of a request, as the model reads them."""

    texts: list[str]
    tokens: list[int]  # that the model reads of each
    reading: Reading


class Service:
    """The requests of one model, and of an index; without ``thread``, the caller runs ``batcher.run`` to compute."""

    def __init__(
        self, embedder: Embedder, settings: ServerSettings, *, index: Index | None = None, thread: bool = True
    ) -> None:
        self.embedder, self.settings, self.index = embedder, settings, index
        self.metrics = Metrics(lambda: self.batcher.queued_tokens)
        self.batcher = Batcher(
            embedder,
            batch_tokens=settings.batch_tokens(embedder.device),
            max_wait_ms=settings.max_wait_ms,
            max_queue=settings.max_queue,
            observe=self._observe,
            thread=thread,
        )
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="mrl-text-tokenize")
        self._slow_helper = ThreadPoolExecutor(1, thread_name_prefix="mrl-text-tokenize-long")
        self._started = int(time.time())

    async def embeddings(self, request: Request) -> Response:
        """``POST /v1/embeddings``."""
        return await self._post(request, self._embeddings)

    async def rerank(self, request: Request) -> Response:
        """``POST /rerank``: documents by their cosine to a query."""
        return await self._post(request, self._rerank)

    async def search(self, request: Request) -> Response:
        """``POST /search``: the nearest rows of the index."""
        if self.index is None:
            raise ApiError(404, "no index is served here: start mrl-text serve with --index STORE", code="no_index")
        return await self._post(request, partial(self._search, self.index))

    async def _post(self, request: Request, answer: Callable[[bytes], Coroutine[Any, Any, Response]]) -> Response:
        deadline = asyncio.get_running_loop().time() + self.settings.timeout
        try:
            self.batcher.check_room()
            try:
                async with asyncio.timeout_at(deadline):
                    body = await _read_body(request, self.settings.max_request_bytes)
            except TimeoutError:
                message = f"the body did not arrive within {self.settings.timeout:g} s"
                raise ApiError(408, message, code="timeout") from None
            try:
                async with asyncio.timeout_at(deadline):
                    return await _while_connected(request, answer(body))
            except TimeoutError:
                message = f"no answer within {self.settings.timeout:g} s: send fewer texts, or try later"
                raise ApiError(504, message, code="timeout") from None
        except ClientDisconnect:
            raise ApiError(499, "the client has gone") from None
        except Overloaded as error:
            headers = {"retry-after": str(error.retry_after)}
            raise ApiError(429, f"the queue is full: {error}", code="queue_full", headers=headers) from None
        except Closed:
            raise ApiError(503, "the server is stopping", code="stopping", headers={"retry-after": "1"}) from None

    async def models(self) -> Response:
        """``GET /v1/models``."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, name: str) -> Response:
        """``GET /v1/models/NAME``."""
        self._check_model(name)
        return JSONResponse(self._model())

    async def health(self) -> Response:
        """``GET /health``: the server listens once the model is loaded and warm, so an answer means ready."""
        return JSONResponse({"status": "ok"})

    async def show_metrics(self) -> Response:
        """``GET /metrics``."""
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)

    async def _embeddings(self, body: bytes) -> Response:
        asked, texts = await self._aside(len(body), self._understand_embeddings, body)
        vectors = await self._embed(texts)
        long = len(texts.texts) * (asked.dimensions or self.embedder.width) > _QUICK_NUMBERS
        content = await self._aside(_LONG_BYTES if long else 0, self._render, asked, vectors, sum(texts.tokens))
        return Response(content, media_type="application/json")

    async def _rerank(self, body: bytes) -> Response:
        asked, given, query, documents = await self._aside(len(body), self._understand_rerank, body)
        tasks = [asyncio.ensure_future(self._embed(texts)) for texts in (query, documents)]
        try:
            of_query, of_documents = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        scores = of_documents @ of_query[0]
        results = [
            {"index": int(row), "relevance_score": round(float(scores[row]), 6)}
            | ({"document": {"text": given[row]}} if asked.return_documents else {})
            for row in np.argsort(-scores, kind="stable")[: asked.top_n]
        ]
        return self._json({"object": "rerank", "results": results}, sum(query.tokens) + sum(documents.tokens))

    async def _search(self, index: Index, body: bytes) -> Response:
        asked, queries, where = await self._aside(len(body), self._understand_search, index, body)
        tokens = 0
        if isinstance(queries, Texts):
            tokens, queries = sum(queries.tokens), await self._embed(queries)
        found = await index.search(queries, asked.k, where, exact=asked.exact, documents=asked.return_documents)
        data = [{"object": "search_results", "index": row, "results": results} for row, results in enumerate(found)]
        return self._json({"object": "list", "data": data}, tokens)

    def _json(self, content: dict[str, Any], tokens: int) -> Response:
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = to_json({**content, "model": self.embedder.name, "usage": usage})
        return Response(body, media_type="application/json")

    async def _embed(self, texts: Texts) -> np.ndarray:
        try:
            vectors = await self.batcher.embed(*texts)
        except (Overloaded, Closed):
            raise
        except Exception:  # logged where it was raised
            raise ApiError(500, "the model failed on this input; the server's log says why") from None
        self.metrics.tokens.inc(sum(texts.tokens))
        return vectors

    def _understand_embeddings(self, body: bytes) -> tuple[EmbeddingRequest, Texts]:
        asked = parse_request(body, EmbeddingRequest)
        self._check_model(asked.model)
        self._check_dimensions(asked.dimensions)
        if asked.encoding_format == "base64" and asked.output_dtype not in (None, "float"):
            # whose client would read the bytes as floats, and say nothing
            message = f"base64, OpenAI's default, holds floats: set encoding_format float with {asked.output_dtype}"
            raise ApiError(400, message, param="encoding_format")
        try:
            reading = self.embedder.reading(asked.input_type, asked.prompt_name)
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt_name") from None
        inputs = read_inputs(asked.input, limit=self.settings.max_inputs, token_ids=self.settings.token_ids)
        asked.input = None  # large, and no longer needed
        try:
            texts: list[Any] = inputs if isinstance(inputs[0], str) else self.embedder.decode(inputs)
        except ValueError as error:
            raise ApiError(400, str(error), param="input") from None
        return asked, self._read(texts, reading)

    def _understand_rerank(self, body: bytes) -> tuple[RerankRequest, list[str], Texts, Texts]:
        asked = parse_request(body, RerankRequest)
        self._check_model(asked.model)
        if asked.top_n is not None and asked.top_n < 1:
            raise ApiError(400, f"top_n must be at least 1, got {shown(asked.top_n)}", param="top_n")
        query: Any = read_inputs([asked.query], limit=1, field="query")
        documents = read_documents(asked.documents, limit=self.settings.max_inputs)
        of_query, of_documents = (self.embedder.reading(role, None) for role in ("query", "document"))
        return asked, documents, self._read(query, of_query), self._read(documents, of_documents)

    def _understand_search(self, index: Index, body: bytes) -> tuple[SearchRequest, Texts | np.ndarray, Where | None]:
        asked = parse_request(body, SearchRequest)
        self._check_model(asked.model)
        queries = read_query(asked.query, limit=self.settings.max_inputs, width=index.width)
        check_results(asked.k, len(queries))
        where = read_filter(asked.filter)
        if isinstance(queries, list):
            return asked, self._read(queries, self.embedder.reading("query", None)), where
        return asked, queries, where

    def _read(self, texts: list[str], reading: Reading) -> Texts:
        """Texts as the model reads them, and the tokens of each that it reads."""
        texts = self.embedder.shortened(texts, reading)
        lengths = self.embedder.count(texts, reading)
        limit = self.embedder.max_tokens or max(lengths)
        self.metrics.cut_texts.inc(sum(length > limit for length in lengths))
        return Texts(texts, [min(length, limit) for length in lengths], reading)

    def _render(self, asked: EmbeddingRequest, vectors: np.ndarray, tokens: int) -> bytes:
        if asked.dimensions is not None and asked.dimensions < self.embedder.width:
            vectors = truncate(vectors, asked.dimensions)
        if (stored := asked.output_dtype or "float") != "float":
            vectors = quantize(vectors, stored, ranges=fixed_ranges(vectors.shape[1]))
        return render_response(vectors, model=self.embedder.name, encoding_format=asked.encoding_format, tokens=tokens)

    async def _aside(self, size: int, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function; run it in a helper thread if it takes long, by the bytes that it reads."""
        if size <= _QUICK_BYTES:
            return function(*arguments)
        helper = self._helper if size <= _LONG_BYTES else self._slow_helper
        return await asyncio.get_running_loop().run_in_executor(helper, function, *arguments)

    def _check_model(self, name: str | None) -> None:
        if name is not None and name not in self.embedder.names:
            message = f"the model {shown(name)} is not served here; {self.embedder.name!r} is"
            raise ApiError(404, message, param="model", code="model_not_found")

    def _check_dimensions(self, dimensions: int | None) -> None:
        width, allowed = self.embedder.width, self.settings.dims
        if dimensions is None or dimensions == width:
            return
        got = f"got {shown(dimensions)}"
        if allowed is not None and dimensions not in allowed:
            sizes = ", ".join(map(str, sorted({*allowed, width})))
            raise ApiError(400, f"dimensions must be one of {sizes}, {got}", param="dimensions")
        if not 1 <= dimensions <= width:
            raise ApiError(400, f"dimensions must be from 1 to {width}, the model's width, {got}", param="dimensions")

    def _model(self) -> dict[str, Any]:
        embedder = self.embedder
        facts = {
            "dimensions": embedder.width,
            "matryoshka_dims": list(embedder.dims),
            "max_tokens": embedder.max_tokens,
        }
        return {"id": embedder.name, "object": "model", "created": self._started, "owned_by": "mrl-text", **facts}

    def _observe(self, texts: int, padded: int, tokens: int, seconds: float, waited: float) -> None:
        self.metrics.batch_texts.observe(texts)
        self.metrics.batch_tokens.observe(padded)
        self.metrics.compute_seconds.inc(seconds)
        self.metrics.wait_seconds.observe(waited)


def create_app(service: Service, *, most: int | None = None) -> FastAPI:
    """The ASGI application of a service; it closes the batcher at its end. With a token set, it shows no schema.

    ``most`` is how many requests may be under way.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.batcher.close(abort=True)

    app = FastAPI(
        title="mrl-text",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json" if service.settings.api_key is None else None,
        redirect_slashes=False,
    )
    posts: list[tuple[Sequence[str], Any, type[Body]]] = [
        ([EMBEDDINGS_PATH], service.embeddings, EmbeddingRequest),
        (RERANK_PATHS, service.rerank, RerankRequest),
        (SEARCH_PATHS, service.search, SearchRequest),
    ]
    for paths, endpoint, kind in posts:
        schema = {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}
        for path in paths:
            app.add_api_route(
                path, endpoint, methods=["POST"], response_model=None, openapi_extra={"requestBody": schema}
            )
    app.add_api_route("/v1/models", service.models, response_model=None)
    app.add_api_route("/v1/models/{name:path}", service.model, response_model=None)
    app.add_api_route(OPEN_PATH, service.health, response_model=None)
    app.add_api_route("/metrics", service.show_metrics, response_model=None)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Guard, api_key=service.settings.api_key, metrics=service.metrics, most=most)
    return app


async def _read_body(request: Request, limit: int) -> bytes:
    """Read the body and refuse more than ``limit`` bytes, whatever the headers promise."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        got = f"not {shown(kind)}" if kind else "which is missing"
        raise ApiError(415, f"the body must be JSON, with the header 'Content-Type: application/json', {got}")
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        message = (
            f"the body must not be compressed, and {shown(coding)} says it is: leave out the header Content-Encoding"
        )
        raise ApiError(415, message)
    too_long = ApiError(413, f"the body is longer than {limit} bytes: send several requests", code="body_too_large")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_long
    return bytes(body)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work, and stop when the client no longer waits for it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)  # now, so that the queue forgets them now


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        path, message = shown(request.url.path), str(error.detail)
        if error.status_code == 404:
            message = f"there is no path {path}: POST to {', '.join(POST_PATHS)}, or GET {', '.join(GET_PATHS)}"
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another")
            message = f"{path} does not take the method {shown(request.method)}: use {allowed}"
        error = ApiError(error.status_code, message, headers=dict(error.headers or {}))
    assert isinstance(error, ApiError)
    return respond(error)


async def _broken(_: Request, error: Exception) -> Response:
    return respond(ApiError(500, "the server failed; its log says why"))
