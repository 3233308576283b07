"""An open bundle: verified, its sessions open, its inputs checked in the user's names."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import decode, registry
from edgeattn.backends import Backend, Options, require_running
from edgeattn.bundle.manifest import Manifest, SelfTestEntry, Tolerance, verify
from edgeattn.errors import BadInput, EngineFailed, IntegrityError, MissingPackage, UnknownName, Unsupported
from edgeattn.program import Session, TensorSpec, free_inputs

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

_MAX_SAMPLE_BYTES = 1 << 30


@dataclass(frozen=True)
class SelfTest:
    """What running the packed sample gave.

    Attributes:
        passed: every output is within its tolerance.
        max_abs: largest absolute difference, per output; NaN where shapes or types differ.
        failed: one line per output that differs.
    """

    passed: bool
    max_abs: Mapping[str, float]
    failed: tuple[str, ...] = ()


def load(path: Path | str, *, blob: bool = False) -> Model:
    """Verify a bundle and open it.

    Args:
        path: the bundle directory.
        blob: open what was compiled for this machine, which is quicker, in place of compiling again here.

    Raises:
        BadInput: no such directory. IntegrityError: its bytes are not those of its manifest.
        MissingPackage: its engine is not installed. EngineFailed: the engine cannot open it.
        Unsupported: its engine does not run here, or it has no blob for this machine.
    """
    directory = Path(path)
    manifest = verify(directory)
    return Model(directory, manifest, _sessions(directory, manifest, blob))


class Model:
    """A bundle, open. Made by :func:`load`.

    Attributes:
        manifest: what the bundle says about itself.
        inputs: program inputs. outputs: outputs of the graph that answers (the step, for wired programs).
    """

    def __init__(self, directory: Path, manifest: Manifest, sessions: Mapping[str, Session]) -> None:
        self._directory, self._sessions, self._open = directory, dict(sessions), True
        self.manifest = manifest
        graphs, wiring = manifest.graphs, manifest.wiring
        last = wiring.loop if wiring else next(iter(graphs))
        self.inputs = tuple(free_inputs({name: graph.inputs for name, graph in graphs.items()}, wiring))
        self.outputs: tuple[TensorSpec, ...] = graphs[last].outputs

    def run(
        self, feeds: Arrays | None = None, outputs: Collection[str] | None = None, /, **named: Array
    ) -> dict[str, Array]:
        """Run once, with inputs by name: ``run({"x": a})`` or ``run(x=a)``.

        Args:
            feeds: inputs by name. named: inputs too.
            outputs: the outputs to return, all by default; ``tokens`` come always. A decoder whose states and logits
                nobody asks for leaves them in the engine, where it can.

        Returns:
            Outputs by name. A wired program decodes greedily: step outputs stacked on axis 0
            ``(steps, batch, …)`` and ``tokens`` ``(batch, steps)`` int64; a state that the engine keeps is none.

        Raises:
            BadInput: an input is missing, unknown, or of another type or shape; says got and expected.
                An output is unknown.
        """
        return self._run({**(feeds or {}), **named}, outputs=outputs)

    def asset(self, name: str) -> bytes:
        """A packed file (labels, vocabulary).

        Raises:
            UnknownName: with the nearest names.
        """
        if name not in self.manifest.assets:
            raise UnknownName("asset", name, self.manifest.assets)
        return (self._directory / self.manifest.assets[name]).read_bytes()

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The open sessions by graph, for a caller with a loop of its own."""
        return dict(self._sessions)

    def sample(self) -> dict[str, Array]:
        """The packed sample's inputs: something real to run.

        Raises:
            BadInput: the bundle has no sample. IntegrityError: its sample cannot be read.
        """
        entry, arrays = self._packed()
        return {name: arrays[f"feed_{i}"] for i, name in enumerate(entry.feeds)}

    def selftest(self) -> SelfTest:
        """Run the packed sample and compare with the packed outputs, each within its packed tolerance.

        Raises:
            BadInput: the bundle has no sample. IntegrityError: its sample cannot be read.
        """
        entry, arrays = self._packed()
        got = self._run(self.sample(), arrays["tokens"] if entry.forced else None)
        expected = {name: arrays[f"output_{i}"] for i, name in enumerate(entry.outputs)}
        return _compare(got, expected, entry.tolerance)

    def close(self) -> None:
        """Release the engine's sessions; the model cannot run afterwards."""
        self._sessions.clear()
        self._open = False

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _packed(self) -> tuple[SelfTestEntry, dict[str, Array]]:
        entry = self.manifest.selftest
        if entry is None:
            raise BadInput("has no self-test", where=str(self._directory), hint="pack it with a sample")
        return entry, _arrays(self._directory / entry.file, entry)

    def _run(
        self, feeds: Arrays, tokens: Array | None = None, outputs: Collection[str] | None = None
    ) -> dict[str, Array]:
        if not self._open:
            raise BadInput("is closed", where=str(self._directory), hint="call edgeattn.runtime.load again")
        _check(self.inputs, feeds)
        return decode.run(self._sessions, self.manifest.wiring, feeds, tokens, outputs)


def _sessions(directory: Path, manifest: Manifest, blob: bool) -> dict[str, Session]:
    if manifest.backend not in registry.names("backends"):
        raise Unsupported(
            f"was built for the engine '{manifest.backend}', which this edgeattn does not know",
            where=str(directory),
            hint=f"upgrade edgeattn, or build it again for one of {', '.join(registry.names('backends'))}",
        )
    backend: Backend = registry.get("backends", manifest.backend)
    here = backend.probe()
    if not here.available:
        raise MissingPackage(manifest.backend, backend.extra, why=here.why)
    options = _options(directory, manifest)
    if blob:
        options = replace(options, settings={**options.settings, "blob": True})
    backend.knobs.of(options, str(directory), manifest.backend)
    require_running(backend, options, "opening a bundle")
    built = manifest.created_with.get(manifest.backend, "another version")
    try:
        return {name: backend.open(directory / graph.file, options) for name, graph in manifest.graphs.items()}
    except EngineFailed as e:
        raise EngineFailed(
            f"built with {manifest.backend} {built}, and {here.version} here cannot open it ({e.what})",
            where=str(directory),
            hint="build it again here with `edgeattn run`",
        ) from e


def _options(directory: Path, manifest: Manifest) -> Options:
    try:
        asked = dict(manifest.options)
        settings = {"hint": asked.pop("hint")} if "hint" in asked else {}
        return Options(**asked, settings=settings)
    except TypeError:
        raise IntegrityError(
            f"has options this edgeattn does not know: {', '.join(manifest.options)}",
            where=str(directory),
            hint="upgrade edgeattn",
        ) from None


def _check(specs: tuple[TensorSpec, ...], feeds: Arrays) -> None:
    """Every input there, nothing else, each an array of its type and shape; symbolic dimensions agree."""
    expected = "; ".join(map(str, specs))
    for problem, names in (
        ("missing input", [s.name for s in specs if s.name not in feeds]),
        ("unknown input", [name for name in feeds if name not in {s.name for s in specs}]),
    ):
        if names:
            raise BadInput(f"{problem} {', '.join(names)}", hint=f"expected {expected}")
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        value = feeds[spec.name]
        if not isinstance(value, np.ndarray):
            raise BadInput(
                f"input '{spec.name}' is a {type(value).__name__}, not a numpy array", hint=f"expected {spec}"
            )
        if str(value.dtype) != spec.dtype:
            raise BadInput(f"input '{spec.name}' is {value.dtype}", hint=f"expected {spec}")
        pairs = list(zip(spec.shape, value.shape, strict=False))
        if len(spec.shape) != value.ndim or any(isinstance(want, int) and want != got for want, got in pairs):
            raise BadInput(f"input '{spec.name}' has shape {list(value.shape)}", hint=f"expected {spec}")
        if 0 in value.shape:
            raise BadInput(f"input '{spec.name}' is empty: shape {list(value.shape)}", hint=f"expected {spec}")
        for want, got in pairs:
            if isinstance(want, str) and want not in ("", "?"):
                size, first = sizes.setdefault(want, (got, spec.name))
                if size != got:
                    raise BadInput(
                        f"'{want}' is {size} in input '{first}' and {got} in '{spec.name}'", hint=f"expected {expected}"
                    )


def _arrays(path: Path, entry: SelfTestEntry) -> dict[str, Array]:
    names = [f"feed_{i}" for i in range(len(entry.feeds))] + [f"output_{i}" for i in range(len(entry.outputs))]
    names += ["tokens"] if entry.forced else []
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_SAMPLE_BYTES:
                raise IntegrityError("unpacks to more than 1 GiB", where=str(path))
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
        raise IntegrityError(f"is not the sample the manifest describes ({e})", where=str(path)) from e


def _compare(got: Arrays, expected: Arrays, tolerance: Mapping[str, Tolerance]) -> SelfTest:
    max_abs: dict[str, float] = {}
    failed: list[str] = []
    for name, want in expected.items():
        have = got.get(name)
        if have is None or have.shape != want.shape or have.dtype != want.dtype:
            max_abs[name] = float("nan")
            described = "nothing" if have is None else f"{have.dtype}{list(have.shape)}"
            failed.append(f"{name}: got {described}, expected {want.dtype}{list(want.shape)}")
            continue
        limit = tolerance.get(name, Tolerance(0.0, 0.0))
        a, b = have.astype(np.float64), want.astype(np.float64)
        with np.errstate(invalid="ignore"):  # inf - inf where both are infinite
            difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        max_abs[name] = float(difference.max(initial=0.0))
        within = np.isfinite(difference) & (difference <= limit.atol + limit.rtol * np.abs(b))
        if not within.all():
            failed.append(
                f"{name}: differs by up to {max_abs[name]:.3g}, beyond atol {limit.atol:g} rtol {limit.rtol:g}"
            )
    return SelfTest(not failed, max_abs, tuple(failed))
