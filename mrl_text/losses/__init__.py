"""Contrastive losses over nested prefix sizes."""

from __future__ import annotations

from mrl_text.losses.nested_infonce import nested_infonce

__all__ = ["nested_infonce"]
