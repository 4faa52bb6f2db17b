"""What stands before every request: the token, and the count of answers."""

from __future__ import annotations

import hashlib
import hmac
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrl_text.serving.errors import ApiError, respond
from mrl_text.serving.metrics import Metrics

OPEN_PATH = "/health"  # path that needs no token. It only says that the server runs.

EMBEDDINGS_PATH = "/v1/embeddings"
RERANK_PATHS = ("/rerank", "/v1/rerank")  # as Cohere, Jina, infinity and vLLM have it
SEARCH_PATHS = ("/search", "/v1/search")
POST_PATHS = (EMBEDDINGS_PATH, *RERANK_PATHS, *SEARCH_PATHS)
GET_PATHS = ("/v1/models", OPEN_PATH, "/metrics")


class Guard:
    """ASGI middleware that checks the token before it reads anything else of a request, and counts answers.

    Of requests under way it allows ``most``, beside those for health, which always have an answer.
    Without the right token every path, method and body gets the same answer. Only ``/health`` needs no token.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, metrics: Metrics, most: int | None = None) -> None:
        self._app, self._metrics, self._most = app, metrics, most
        self._under_way = 0
        self._digest = _digest(api_key.strip().encode()) if api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, status, started = scope["path"], 500, time.perf_counter()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if path == OPEN_PATH:
                await self._app(scope, receive, counted)
            elif not self._allows(Headers(scope=scope)):
                message = "a valid API key is needed, in the header 'Authorization: Bearer KEY'"
                challenge = {"www-authenticate": "Bearer"}
                refused = respond(ApiError(401, message, code="invalid_api_key", headers=challenge))
                await refused(scope, receive, counted)
            elif self._most is not None and self._under_way >= self._most:
                message = f"{self._under_way:,} requests are under way already: try again, or send several texts in one"
                busy = ApiError(503, message, code="too_many_requests", headers={"retry-after": "1"})
                await respond(busy)(scope, receive, counted)
            else:
                self._under_way += 1
                try:
                    await self._app(scope, receive, counted)
                finally:
                    self._under_way -= 1
        finally:
            label = path if path in (*POST_PATHS, *GET_PATHS) else "other"
            self._metrics.requests.labels(label, str(status)).inc()
            if path in POST_PATHS:
                self._metrics.seconds.observe(time.perf_counter() - started)

    def _allows(self, headers: Headers) -> bool:
        if self._digest is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        # digests have one length, and their comparison takes one time
        right = hmac.compare_digest(_digest(token.strip().encode("latin-1")), self._digest)
        return right and scheme.lower() == "bearer"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
