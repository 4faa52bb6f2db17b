"""An embedding server that speaks OpenAI's protocol (extra ``serve``)."""

from __future__ import annotations

try:
    import fastapi as _fastapi  # noqa: F401
    import prometheus_client as _prometheus_client  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error.name} is not installed: pip install 'mrl-text[serve]'") from None

from mrl_text.serving.run import serve
from mrl_text.serving.settings import ServerSettings, read_api_key

__all__ = ["ServerSettings", "read_api_key", "serve"]
