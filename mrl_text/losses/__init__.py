"""Losses at every prefix size at once: contrastive and distilling, fused and linear in memory."""

from __future__ import annotations

from mrl_text.losses.distillation import EmbeddingDistillation, ScoreDistillation
from mrl_text.losses.nested import NestedLoss, nested_infonce, nested_infonce_2d, self_distillation
from mrl_text.losses.objectives import InfoNCE, SelfDistillation, SpreadOut

__all__ = [
    "EmbeddingDistillation",
    "InfoNCE",
    "NestedLoss",
    "ScoreDistillation",
    "SelfDistillation",
    "SpreadOut",
    "nested_infonce",
    "nested_infonce_2d",
    "self_distillation",
]
