"""One graph compiled by OpenVINO, open: arrays in, arrays out, in the names of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.backends._common import explain_failure
from edgeattn.phase import native
from edgeattn.program import TensorSpec

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

_DTYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "boolean": "bool"}
_DTYPES |= {f"{s}{n}": f"{k}{n}" for s, k in (("i", "int"), ("u", "uint")) for n in (8, 16, 32, 64)}
_RUNNING = native("OpenVINO", "running the graph")


class OpenVinoSession:
    """One graph compiled by OpenVINO, with its own inference request."""

    def __init__(self, compiled: Any, names: Sequence[str]) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        # A compiled output answers to the names of everything that was fused into it: the graph's own is meant.
        ports = zip(compiled.outputs, names, strict=True)
        self.outputs = tuple(replace(_spec(port), name=name) for port, name in ports)
        self._names = [spec.name for spec in self.outputs]
        self._dtypes = [(spec.name, _dtype(spec.dtype)) for spec in self.inputs]

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run once; see :class:`edgeattn.program.Session`. Outputs are copies, safe to keep."""
        try:
            given = {spec.name: feeds[spec.name] for spec in self.inputs}
            if any(kind is None or given[name].dtype != kind for name, kind in self._dtypes):
                raise TypeError("OpenVINO would convert the input silently")
            with _RUNNING:
                results = self._request.infer(given, share_inputs=True, share_outputs=True)
            return {name: results[i].copy() for i, name in enumerate(self._names)}
        except Exception as error:
            raise explain_failure("openvino", error, self.inputs, feeds) from error

    def variables(self) -> Any:
        """The state that the request keeps, to be set before a sequence."""
        return self._request.query_state()


def _dtype(name: str) -> np.dtype[Any] | None:
    """NumPy's type of that name; None for one that NumPy does not hold, such as bf16."""
    try:
        return np.dtype(name)
    except TypeError:
        return None


def _spec(port: Any) -> TensorSpec:
    shape = tuple("?" if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
    return TensorSpec(_name(port), dtype_name(port.get_element_type().get_type_name()), shape)


def dtype_name(kind: str) -> str:
    """NumPy's name of an OpenVINO type; its own where NumPy has none."""
    return _DTYPES.get(kind, kind)


def _name(port: Any) -> str:
    """What the graph calls its input or output; where OpenVINO drops an Identity or a Cast, it has several names."""
    called = str(port.get_node().get_friendly_name()).partition("/sink_port_")[0]
    return called if called in port.get_names() else str(port.get_any_name())
