"""The questions of the Matryoshka paper (arXiv 2205.13147), answered for text by one command."""

from __future__ import annotations

from mrl_text.paper.run import QUESTIONS, paper

__all__ = ["QUESTIONS", "paper"]
