"""``python3 build.py`` builds this kit's engines; ``python3 verify.py`` runs, judges and times them. See ``--help``.

Both are this file: it holds the kit's scripts against MANIFEST and runs ``board/build.py`` or ``board/verify.py``,
which hold everything else against it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import runpy
import sys
from pathlib import Path

UNSUPPORTED, INTEGRITY = 4, 6


def altered(kit: Path) -> str:
    """The first script that is not as it was packed; empty if all are."""
    manifest = kit / "MANIFEST"
    if not manifest.is_file():
        return "MANIFEST"
    listed = [line.partition("  ") for line in manifest.read_text("utf-8").splitlines()]
    for expected, _, name in listed:
        script = kit / name
        if name.endswith(".py") and not script.is_file():
            return name
        if name.endswith(".py") and hashlib.sha256(script.read_bytes()).hexdigest() != expected:
            return name
    return ""


def main(script: Path) -> int:
    """Run the module that the script is called after; 6 where a script differs."""
    kit = script.parent
    wrong = altered(kit)
    if wrong:
        what = "is not the file that was packed, or missing; copy the kit to the board again"
        sys.stderr.write(f"{script.name}: error: {kit / wrong}: {what}\n")
        return INTEGRITY
    if importlib.util.find_spec("numpy") is None:
        what = "numpy is not installed; sudo apt-get install python3-numpy, and use the system's python3"
        sys.stderr.write(f"{script.name}: error: {what}\n")
        return UNSUPPORTED
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(kit))
    runpy.run_module(f"board.{script.stem}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve()))
