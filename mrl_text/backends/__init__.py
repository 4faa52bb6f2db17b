"""Other engines than torch for a model's transformer: ONNX Runtime, also in int8, and OpenVINO.

The transformer alone is handed over; pooling, the rotation of ``adapt`` and whatever else follows stay in torch, so
that every model keeps its modules. Engines are optional: ``pip install 'mrl-text[onnx]'`` or ``'mrl-text[openvino]'``.
"""

from __future__ import annotations

from mrl_text.backends.base import CompiledBackbone, check_backend, compile_model
from mrl_text.backends.trial import fastest

__all__ = ["CompiledBackbone", "check_backend", "compile_model", "fastest"]
