"""A run of a TensorRT session whose inputs stay on the device: what the device alone takes, without its copies.

An application that reads a camera or a file copies its inputs to the GPU at every call, and ``session.run`` does too.
One whose inputs are made on the GPU does not; and beside engines that are timed on the device only this is fair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import EngineFailed
from edgeattn.phase import native

if TYPE_CHECKING:
    from edgeattn.backends._tensorrt_session import TensorRtSession
    from edgeattn.program import Array, Arrays


class Resident:
    """One run of a session on inputs that lie on the device: a call queues it and neither copies nor waits.

    It holds until the session is run on anything else; from then on it refuses.

    Attributes:
        cuda: the runtime, on the session's stream; a :class:`edgeattn.backends._cuda.Stopwatch` of it times calls.
    """

    def __init__(self, session: TensorRtSession, feeds: Arrays) -> None:
        self._session, self.cuda = session, session._cuda
        session.run(feeds)
        self._key = tuple(np.shape(feeds[spec.name]) for spec in session.inputs)
        self._run = session._runs

    def __call__(self) -> None:
        """Queue the run; from the session's second on it is a replayed CUDA graph."""
        self._assert_current()
        with native("TensorRT", "running the graph"):
            self._session._execute(self._key, False)

    def outputs(self) -> dict[str, Array]:
        """What the last run gave, once it is done."""
        self._assert_current()
        results = {spec.name: self._session._room(spec) for spec in self._session.outputs}
        self._session._fetch(results)
        return results

    @property
    def graph(self) -> str:
        """Who captures a CUDA graph of the run: ``edgeattn``, the ``library``, which was asked to, or no one yet."""
        if self._session._replay is None:
            return "library"
        return "edgeattn" if self._key in self._session._replay else ""

    def _assert_current(self) -> None:
        if self._session._runs != self._run:
            raise EngineFailed(
                "the session ran on other inputs since these were left on the device",
                where="tensorrt",
                hint="ask for them again: session.resident(feeds)",
            )
