"""Publish a model with a card that says what each size costs."""

from __future__ import annotations

from mrl_text.cards.published import describe_card
from mrl_text.sharing.push import Upload, prepare, push, write_upload

__all__ = ["Upload", "describe_card", "prepare", "push", "write_upload"]
