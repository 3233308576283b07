"""Graphs into OpenVINO and out of it: ONNX to its model, and its model to IR."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.backends._common import refusal
from edgeattn.backends._openvino_graph import extremes_apart, fake_quantized, gated_in_int8
from edgeattn.errors import MissingPackage
from edgeattn.phase import native

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array


def core() -> Any:
    """A new Core, without a cache directory: one that is shared is unsafe across processes."""
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingPackage("openvino", "openvino") from error
    return ov.Core()


def read(model: onnx.ModelProto) -> Any:
    """The graph as OpenVINO's; weights that lie outside become constants over the mapped files."""
    from edgeattn import outside

    weights = {tensor.name: outside.array(tensor) for tensor in outside.tensors(model)}
    try:
        with native("OpenVINO", "reading the graph"):
            read = core().read_model(outside.hollow(model).SerializeToString())
            return gated_in_int8(extremes_apart(fake_quantized(_with_constants(read, weights))))
    except Exception as error:
        raise refusal("openvino", error) from error


def thawed(ir: tuple[bytes, bytes]) -> Any:
    """What :func:`frozen` gave, as OpenVINO's model."""
    with native("OpenVINO", "reading the graph"):
        return core().read_model(*ir)


def save(model: Any, xml: Path) -> None:
    """Write an IR, weights as they are: the default would make them FP16.

    Raises:
        OSError: the disk is full, which OpenVINO's own error does not tell.
    """
    import openvino as ov

    try:
        with native("OpenVINO", "saving the graph"):
            ov.save_model(model, xml, compress_to_fp16=False)
    except RuntimeError as error:
        if shutil.disk_usage(xml.parent).free > _LEFT_ON_A_FULL_DISK:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(xml)) from error


_LEFT_ON_A_FULL_DISK = 1 << 20  # what a write that did not fit left over


def frozen(model: Any) -> tuple[bytes, bytes]:
    """OpenVINO's own model as ``(xml, bin)``, weights as they are."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "model.xml"
        save(model, xml)
        return xml.read_bytes(), xml.with_suffix(".bin").read_bytes()


def _with_constants(model: Any, weights: Mapping[str, Array]) -> Any:
    """The model with the parameters that stand for ``weights`` replaced by constants that share their memory."""
    import openvino as ov

    for parameter in model.get_parameters() if weights else ():
        name = parameter.get_friendly_name()
        if name in weights:
            constant = ov.op.Constant(_shareable(weights[name]), shared_memory=True)
            constant.set_friendly_name(name)
            for reader in parameter.output(0).get_target_inputs():
                reader.replace_source_output(constant.output(0))
            model.remove_parameter(parameter)
    return model


def _shareable(array: Array) -> Array:
    """The same memory, marked as writable: OpenVINO asks for that and does not write."""
    whole: Any = array
    while isinstance(whole, np.ndarray):
        whole = whole.base
    room = np.frombuffer(whole, np.uint8)
    start = array.__array_interface__["data"][0] - room.__array_interface__["data"][0]
    shared: Array = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    return shared
