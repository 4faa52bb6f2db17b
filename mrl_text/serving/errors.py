"""Refusals in the shape that OpenAI's clients read."""

from __future__ import annotations

import reprlib
from typing import Any

from starlette.responses import JSONResponse, Response

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


_SHOWN = 80
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 2, _SHOWN, _SHOWN, _SHOWN
Headers = dict[str, str] | None


class ApiError(Exception):
    """A refused request: HTTP status, message (never a part of a long input), field, short name, extra headers."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Headers = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    @property
    def body(self) -> dict[str, Any]:
        """``{"error": {message, type, param, code}}``."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def respond(error: ApiError) -> Response:
    """The response that reports an error to the client."""
    return JSONResponse(error.body, error.status, headers=error.headers)


def shown(value: Any) -> str:
    """A value of a request as an error may quote it: in one line, and short."""
    return _SHORT.repr(value)[:_SHOWN]
