"""The interactive report: one HTML file that carries its data, its style and its script."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from mrl_text.files import write_atomically


def write_html(data: Mapping[str, Any], file: Path) -> Path:
    """Write a report that opens in any browser without a network.

    Args:
        data: what the page shows: ``title``, ``version``, ``keep``, ``lines``, ``tasks``, ``cells``,
            ``recommendations`` and ``notes``. Scores and retentions are 0 to 1; a number that is not finite becomes
            null, which the page shows as unknown. ``confidence`` (0 to 1), the coverage of the intervals, may be left
            out.
        file: where to write; missing parent folders are made.

    Returns:
        ``file``.

    Raises:
        TypeError: ``data`` holds something that JSON has no form for.
        OSError: the file cannot be written; an older version of it is untouched.
    """
    write_atomically(file, render_html(data).encode("utf-8", errors="xmlcharrefreplace"))
    return file


def render_html(data: Mapping[str, Any]) -> str:
    """The page that :func:`write_html` writes, as text.

    Raises:
        TypeError: ``data`` holds something that JSON has no form for.
    """
    template = files("mrl_text.eval").joinpath("report.html").read_text(encoding="utf-8")
    parts = {"title": html.escape(str(data["title"])), "data": _json(data)}
    # in one pass, so that a title or a label that looks like a placeholder stays as it is
    return re.sub(r"\{\{(title|data)\}\}", lambda match: parts[match[1]], template)


def _json(data: Mapping[str, Any]) -> str:
    """JSON that may stand inside a script element: without ``<`` nothing in it can end the element."""
    text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
