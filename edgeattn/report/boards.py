"""The board behind a report that came back with a build kit."""

from __future__ import annotations

from collections.abc import Mapping

from edgeattn.report.values import Figure, Notes, Value


class BoardReport(Value):
    """Which machine ran the kit, how it was set, and what its figures rest on.

    Attributes:
        name: as the device tree calls it. jetson: whether that is one. l4t: Jetson Linux release, ``36.4.3``.
        power_mode: nvpmodel's number and name. clocks: of ``cpu`` and ``gpu`` in MHz, and whether they are held at
            their highest. temperatures_c: every thermal zone ``before`` and ``after`` the timing.
        library, version: the package that built and ran the engines, as ``tensorrt`` 10.3.0.
        wanted: what the kit was made for. version_fits: whether ``version`` is that.
        rehearsal: no engine ran: the graphs did, in ONNX Runtime. capability: compute capability of the GPU.
        kit: sha256 of the kit's MANIFEST. engines: sha256 of every plan. timing_cache: of the builder's.
        outputs, samples: sha256 of ``outputs.npz`` and ``samples.npz``. digest: of the report without it.
    """

    name: str
    jetson: bool
    l4t: str = ""
    power_mode: str = ""
    clocks: Notes = {}  # noqa: RUF012
    temperatures_c: Mapping[str, Mapping[str, Figure]] = {}
    library: str
    version: str
    wanted: str
    version_fits: bool
    rehearsal: bool
    capability: str = ""
    kit: str
    engines: Mapping[str, str] = {}
    timing_cache: str | None = None
    outputs: str
    samples: str
    digest: str

    def rows(self) -> tuple[tuple[str, str], ...]:
        """What it was, in words, for every form of the report."""
        release = f"Jetson Linux {self.l4t}" if self.l4t else "no Jetson Linux"
        return (
            ("board", f"{self.name}, {release}"),
            ("made for", self.wanted),
            ("ran with", f"{self.library} {self.version}" + (", a rehearsal" if self.rehearsal else "")),
            ("set to", self.setting),
            ("kit", self.kit[:16]),
        )

    @property
    def setting(self) -> str:
        """Power mode, clocks and temperature in one line."""
        told = [f"power mode {self.power_mode}" if self.power_mode else "power mode unknown"]
        for what, clock in self.clocks.items():
            held = "held" if clock.get("held") else "not held"
            told.append(f"{what} {clock.get('mhz') or 0:.0f} of {clock.get('max_mhz') or 0:.0f} MHz, {held}")
        warmest = [max(filter(None, zones.values()), default=None) for zones in self.temperatures_c.values()]
        known = [f"{degrees:.0f}" for degrees in warmest if degrees is not None]
        return "; ".join([*told, *([f"warmest zone {' to '.join(known)} °C"] if known else [])])
