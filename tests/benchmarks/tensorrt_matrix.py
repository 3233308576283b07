"""Does every zoo member build for every GPU? ``python -m tests.benchmarks.tensorrt_matrix [MEMBER ...] [--out PAGE]``.

Every trained member and those of ``PAPER_SIZE``, in FP32, FP16 and INT8 for sm89 and sm120 together (one engine file),
and in FP16 for sm75, sm80 and sm86, is built by TensorRT for RTX on this CPU, or refused before that. A *surprise* is
a build that fails though nothing was refused, and a refusal of what the builder takes: there must be none.

Members are exported, rewritten and quantized on their own seeded cases (engines and sizes are judged here, not
accuracy), each in a process of its own; each build has one too, with a limit of time and memory. What is done is kept
in ``build/tensorrt``: run it again and it goes on; ``--fresh`` starts over. ``--out`` writes the table into a page,
between the two comments that mark its place.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.tensorrt_parse import members

FOLDER = Path("build/tensorrt")
BOTH, ALONE = "sm89,sm120", ("sm75", "sm80", "sm86")
SCHEMES = {"fp32": None, "fp16": "fp16", "int8": "int8-static"}
SECONDS, BYTES = 300, 8 << 30
HEADS = ("member", "precision", "sm89 + sm120", *ALONE, "seconds", "memory", "computes in")
START, END = "<!-- tensorrt_matrix -->", "<!-- end -->"
TARGET = 0.55
"""The largest share of CBAM-ResNet-50's FP32 engine that its INT8 engine may take."""


@dataclass(frozen=True)
class Built:
    """What became of one member in one precision for one list of compute capabilities.

    Attributes:
        refused: why nothing was built, told before the builder was asked. failed: what the builder said instead.
        bytes: of the engine files. seconds: of building them. peak_bytes: by how much memory grew at most meanwhile.
        effective: what the builder says that it computes in.
    """

    member: str
    precision: str
    capabilities: str
    refused: str = ""
    failed: str = ""
    bytes: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    effective: str = ""

    @property
    def surprise(self) -> str:
        """What nobody foretold; empty where all went as told."""
        if self.failed and not self.refused:
            return f"not foretold: {self.failed}"
        return f"refused, yet it builds: {self.refused}" if self.refused and self.bytes else ""


def wanted() -> Iterator[tuple[str, str]]:
    """Every precision and list of compute capabilities of a member."""
    yield from ((precision, BOTH) for precision in SCHEMES)
    yield from (("fp16", capability) for capability in ALONE)


def prepare(member: str) -> None:
    """Write the graphs of a member in every precision, with the sizes that they are built for."""
    from edgeattn import export, outside, profile, source
    from edgeattn.backends import oracle, tensorrt_rtx
    from edgeattn.harness.parity import stands_for_calibration
    from edgeattn.quantize import Settings, forms, quantize
    from edgeattn.rewrite import rewrite

    exported = export.export(source.resolve(member).source)
    assert exported.reference is not None
    cases = exported.reference.cases
    data = [case for case in cases if stands_for_calibration(case, cases)]
    settings = Settings(qdq=tensorrt_rtx.BACKEND.qdq)
    for precision, scheme in SCHEMES.items():
        program = rewrite(exported, oracle, also=forms(scheme) if scheme else ())
        program = quantize(program, scheme, oracle, data, settings) if scheme else program
        place = FOLDER / f"{member}.{precision}"
        place.mkdir(parents=True, exist_ok=True)
        outside.write_program(program, place if program.wiring else place / "main.onnx")
        (place / "profile.json").write_text(json.dumps(profile.complete(program, ())))


def build(member: str, precision: str, capabilities: str) -> Built:
    """Ask for refusals, then build whatever they are."""
    from edgeattn import storage
    from edgeattn.backends import Options, tensorrt_rtx
    from edgeattn.errors import EdgeattnError

    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    place = FOLDER / f"{member}.{precision}"
    program = storage.load(place if (place / "wiring.json").exists() else place / "main.onnx")
    buckets = json.loads((place / "profile.json").read_text())
    profiles = tuple({name: tuple(span) for name, span in bucket.items()} for bucket in buckets)
    options = Options(capabilities, precision, profiles=profiles)
    backend = tensorrt_rtx.BACKEND
    told = [f"{r.graph}: {r.node}: {r.reason}" if r.node else r.reason for r in backend.unsupported(program, options)]
    known = (member, precision, capabilities, told[0] if told else "")
    try:
        with tempfile.TemporaryDirectory() as folder:
            engine = backend.compile(program, options, Path(folder))
    except EdgeattnError as error:
        return Built(*known, failed=str(error))
    made = [graph["build"] for graph in engine.effective.values()]
    return Built(
        *known,
        bytes=sum(graph["bytes"] for graph in made),
        seconds=sum(graph["seconds"] for graph in made),
        peak_bytes=max(graph["peak_bytes"] or 0 for graph in made),
        effective=_computes_in(engine.effective.values()),
    )


def _computes_in(graphs: Iterable[Any]) -> str:
    """Shares of the multiply-accumulates by precision, the largest first: ``int8 98 %, fp32 2 %``."""
    macs: Counter[str] = Counter()
    for graph in graphs:
        macs.update(graph["precision"]["macs_in"])
    shares = ((name, 100 * count / (macs.total() or 1)) for name, count in macs.most_common())
    return ", ".join(f"{name} {share:.0f} %" if share >= 0.5 else f"{name} < 1 %" for name, share in shares)


def alone(*words: str) -> tuple[str, str]:
    """Run this file in a process of its own: the last line it printed, and how it died, if so."""
    command = [sys.executable, "-m", "tests.benchmarks.tensorrt_matrix", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "", f"took longer than {SECONDS} s"
    last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
    return (done.stdout.strip().splitlines() or [""])[-1], f"exit {done.returncode}: {last}" if done.returncode else ""


class Store:
    """What is done, in one JSON file that is whole at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = json.loads(path.read_text()) if path.exists() else []
        self.known = {(b["member"], b["precision"], b["capabilities"]): Built(**b) for b in found}

    def add(self, built: Built) -> None:
        """Keep one more."""
        self.known[built.member, built.precision, built.capabilities] = built
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps([asdict(b) for b in self.known.values()], indent=1))
        beside.rename(self._path)


def run(member: str, store: Store) -> Iterator[Built]:
    """Build what is not known yet of a member."""
    known = {key for key, built in store.known.items() if not built.surprise}  # a surprise may have been mended
    left = [(p, c) for p, c in wanted() if (member, p, c) not in known]
    if left and not all((FOLDER / f"{member}.{p}" / "profile.json").exists() for p, _ in left):
        _, died = alone("--prepare", member)
        if died:
            raise SystemExit(f"{member}: cannot be prepared: {died}")
    for precision, capabilities in left:
        said, died = alone("--build", member, precision, capabilities)
        built = Built(member, precision, capabilities, failed=died) if died else Built(**json.loads(said))
        store.add(built)
        yield built


def rows(names: Sequence[str], store: Store) -> Iterator[tuple[str, ...]]:
    """A line for each member and precision."""
    for member in names:
        for precision in SCHEMES:
            both = store.known.get((member, precision, BOTH))
            others = [store.known.get((member, precision, capability)) for capability in ALONE]
            if both is not None:
                took = (
                    (f"{both.seconds:.1f}", f"{both.peak_bytes / 1e6:.0f} MB", both.effective)
                    if both.bytes
                    else ("", "", "")
                )
                yield (member, precision, *map(_cell, (both, *others)), *took)


def _cell(built: Built | None) -> str:
    if built is None:
        return ""
    if built.surprise:
        return f"**surprise**: {built.surprise}"
    return f"refused: {built.refused}" if built.refused else f"{built.bytes / 1e6:.2f} MB"


def table(names: Sequence[str], store: Store) -> str:
    """The table, what it counts up to, and the sizes of CBAM-ResNet-50."""
    lines = [HEADS, ["---"] * len(HEADS), *rows(names, store)]
    drawn = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    known = [built for (member, _, _), built in store.known.items() if member in names]
    built, refused = sum(b.bytes > 0 for b in known), sum(bool(b.refused) for b in known)
    surprises = sum(bool(b.surprise) for b in known)
    counts = f"{len(known)} builds asked for: {built} built, {refused} refused beforehand, {surprises} surprises."
    return f"{counts} {share(store)}\n\n{drawn}\n"


def share(store: Store) -> str:
    """How much smaller CBAM-ResNet-50 gets."""
    whole, packed = (store.known.get(("cbam_resnet50", precision, BOTH)) for precision in ("fp32", "int8"))
    if whole is None or packed is None or not whole.bytes:
        return ""
    ratio = packed.bytes / whole.bytes
    return f"CBAM-ResNet-50's INT8 engine is {ratio:.3f} of its FP32 engine (the limit is {TARGET})."


def write(page: Path, text: str) -> None:
    """Put the table between the comments that mark its place."""
    before = page.read_text()
    after = re.sub(f"{START}.*?{END}", lambda _: f"{START}\n{text}{END}", before, flags=re.DOTALL)
    if START not in after:
        raise SystemExit(f"{page} has no place for the table: {START} … {END}")
    page.write_text(after)


def main() -> int:
    """Build what is missing, print the table, and tell surprises: 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="members; all by default")
    parser.add_argument("--out", type=Path, help="the page whose table is written")
    parser.add_argument("--fresh", action="store_true", help="build again what was built before")
    parser.add_argument("--prepare", metavar="MEMBER", help="write the graphs of a member and end")
    parser.add_argument("--build", nargs=3, metavar=("MEMBER", "PRECISION", "CAPABILITIES"), help="build one and end")
    asked = parser.parse_args()
    if asked.prepare:
        prepare(asked.prepare)
        return 0
    if asked.build:
        print(json.dumps(asdict(build(*asked.build))))
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    if asked.fresh:
        (FOLDER / "store.json").unlink(missing_ok=True)
    store, names = Store(FOLDER / "store.json"), asked.names or members()
    for name in names:
        for built in run(name, store):
            print(f"{name} {built.precision} {built.capabilities}: {_cell(built)}", file=sys.stderr, flush=True)
    text = table(names, store)
    if asked.out:
        write(asked.out, text)
    print(text)
    missed = (ratio := re.search(r"is ([\d.]+) of", share(store))) is not None and float(ratio[1]) > TARGET
    return int(missed or any(built.surprise for built in store.known.values()))


if __name__ == "__main__":
    sys.exit(main())
