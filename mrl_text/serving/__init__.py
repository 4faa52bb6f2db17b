"""An embedding server that speaks OpenAI's protocol (extra ``serve``)."""

from __future__ import annotations

try:
    from mrl_text.serving.run import serve
    from mrl_text.serving.settings import ServerSettings, read_api_key
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error.name} is not installed: pip install 'mrl-text[serve]'") from None

__all__ = ["ServerSettings", "read_api_key", "serve"]
