"""OpenVINO."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as openvino_ops

from mrl_text.backends.base import CompiledBackbone, Trace
from mrl_text.choices import BackendDtype
from mrl_text.dtypes import fastest_dtype
from mrl_text.lanes import Share, whole

_FILE = "model.xml"
_GROUP = 128  # numbers of an activation that share a scale: more are quicker and farther from float32
_PRECISION = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoBackbone(CompiledBackbone):
    """A transformer in OpenVINO, in bfloat16 where the processor has it.

    ``int8`` multiplies by weights of eight bits, symmetric per output, and rounds activations to eight bits as they
    come, each 128 numbers of a token by a scale of their own (OpenVINO's dynamic quantisation). What is no product with
    weights is computed in bfloat16 where the processor has it, else in float32.
    """

    backend = "openvino"
    packages = ("openvino",)

    @classmethod
    def dtypes(cls) -> tuple[BackendDtype, ...]:
        """float32, bfloat16 where the processor has it, and int8."""
        return ("float32", "bfloat16", "int8") if fastest_dtype("cpu") == "bfloat16" else ("float32", "int8")

    def make(self, trace: Trace, folder: Path) -> None:
        """Write ``model.xml``, with plain attention where the engine's own leaves padding without a number.

        Its attention divides by zero for a token that may look at none, as tokens of padding may not in a sliding
        window or in a decoder, and the next layer spreads that.
        """
        for attention in (None, "eager"):
            program = trace(attention)
            with warnings.catch_warnings(), _nothing_is_reported():
                warnings.simplefilter("ignore")  # of torch, at its own words that the converter uses
                graph = openvino.convert_model(program)
            if self.computes_in == "int8":
                _round_weights(graph)
            example, _ = program.example_inputs
            if np.isfinite(self.run(self._compiled(graph, whole()), [tensor.numpy() for tensor in example])).all():
                break
        openvino.save_model(graph, folder / _FILE, compress_to_fp16=False)

    def open(self, folder: Path, given: Share) -> Any:
        """Read it."""
        return self._compiled(folder / _FILE, given)

    def _compiled(self, graph: Any, given: Share) -> Any:
        rounds = self.computes_in == "int8"
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISION[fastest_dtype("cpu") if rounds else self.computes_in],
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if rounds else 0,
            "PERFORMANCE_HINT": "LATENCY" if given.lanes == 1 else "THROUGHPUT",
            "NUM_STREAMS": given.lanes,
            "INFERENCE_NUM_THREADS": given.lanes * given.threads,
        }
        return _Requests(openvino.Core().compile_model(graph, "CPU", settings))

    def run(self, engine: _Requests, inputs: list[np.ndarray]) -> np.ndarray:
        """One forward pass."""
        outputs = engine.mine().infer(dict(enumerate(inputs)), share_inputs=True)
        return np.array(outputs[0])  # the engine's own memory is written again by the next batch


class _Requests:
    """A request for each thread that computes: one request computes one batch at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._here = threading.local()

    def mine(self) -> Any:
        if not hasattr(self._here, "request"):
            self._here.request = self._compiled.create_infer_request()
        return self._here.request


@contextlib.contextmanager
def _nothing_is_reported() -> Iterator[None]:
    """While the converter works, which tells its makers of each use, but not in continuous integration.

    Each report goes over the network from a process of its own, which takes seconds where there is none.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def _round_weights(graph: openvino.Model) -> None:
    """Put integers times a scale per output in the place of all matrices that are multiplied by.

    The package nncf does as much, and brings many others.
    """
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weights = node.input_value(1).get_node()
        if weights.get_type_name() != "Constant" or len(weights.shape) != 2:
            continue
        values = weights.data.astype(np.float32)
        inputs = 1 if node.get_attributes()["transpose_b"] else 0  # the axis that is summed over
        scale = np.abs(values).max(axis=inputs, keepdims=True) / 127
        scale[scale == 0] = 1
        integers = openvino_ops.constant(np.rint(values / scale).astype(np.int8))
        rounded = openvino_ops.multiply(openvino_ops.convert(integers, np.float32), openvino_ops.constant(scale))
        node.input(1).replace_source_output(rounded.output(0))
    graph.validate_nodes_and_infer_types()
