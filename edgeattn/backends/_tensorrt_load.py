"""A graph in memory, open in an engine that is built for sizes: built when it is first run, for what it is given.

Whoever loads a graph without a file (timing a rewrite, ``bench`` on an ONNX) has not said which sizes it takes. Spans
end at powers of two, so that a length that grows from run to run is built for a few times and not at every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeattn import profile
from edgeattn.backends._common import explain_failure
from edgeattn.backends._cuda import CARRIES
from edgeattn.errors import BadInput
from edgeattn.graphs import input_specs, output_specs

if TYPE_CHECKING:
    import onnx

    from edgeattn.profile import Bucket
    from edgeattn.program import Array, Arrays, Session, TensorSpec


class LoadedSession:
    """One graph, built anew where an input fits nothing that was built so far."""

    carries = CARRIES

    def __init__(
        self, engine: str, model: onnx.ModelProto, make: Callable[[Bucket], Session], known: Sequence[Bucket]
    ) -> None:
        self.inputs, self.outputs = input_specs(model), output_specs(model)
        self._engine, self._make = engine, make
        self._built: list[tuple[Bucket, Session]] = [(bucket, make(bucket)) for bucket in known]

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run once; see :class:`edgeattn.program.Session`."""
        problem = explain_failure(self._engine, ValueError(), self.inputs, feeds)
        if isinstance(problem, BadInput):
            raise problem
        sizes = sizes_of(self.inputs, feeds)
        number = profile.fitting([bucket for bucket, _ in self._built], sizes)
        if number is None:
            bucket = {name: span_for(size) for name, size in sizes.items()}
            self._built.append((bucket, self._make(bucket)))
            number = -1
        return self._built[number][1].run(feeds)


def sizes_of(inputs: Sequence[TensorSpec], feeds: Arrays) -> dict[str, int]:
    """The size of every dynamic dimension in arrays whose ranks are right."""
    return {
        dim: size
        for spec in inputs
        for dim, size in zip(profile.dimensions(spec), feeds[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }


def span_for(size: int) -> profile.Span:
    """``(1, 12, 16)`` for 12: from one, or from nothing, to the next power of two."""
    return min(size, 1), size, 1 << max(size - 1, 0).bit_length()
