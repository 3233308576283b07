"""OpenVINO's own settings: what may be asked of it beside device, precision and threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeattn.backends._knobs import Knobs, knob
from edgeattn.errors import UsageError

if TYPE_CHECKING:
    from edgeattn.backends import Options


@dataclass(frozen=True)
class Settings(Knobs):
    """What was asked of OpenVINO; the hint is read by :attr:`edgeattn.backends.Options.hint`."""

    hint: str = knob("latency", "what it is tuned for: one request, or many at once", ("latency", "throughput"))
    stateful: bool | None = knob(
        None, "keep a decoder's state in the engine; by default where that was measured to be faster", kind=bool
    )
    blob: bool = knob(False, "keep the compiled engine beside the portable one, for this machine alone")

    def check(self, options: Options, where: str) -> None:
        """Buckets choose by what a step is given, so its state is given too."""
        if options.buckets and self.stateful:
            raise UsageError("buckets choose by what a step is given", where=where, hint="leave stateful or them out")
