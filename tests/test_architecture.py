"""The rules of the house, read from the source: which way imports go, what stays lazy, who may print."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "edgeattn"
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)

# A file may import what stands above it. Within one layer, stages do not know each other.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "kit", "phase", "registry", "program", "decode", "files", "outside", "__init__"}),
    frozenset(
        {
            "cases",
            "downgrade",
            "strides",
            "drawing",
            "origin",
            "graphs",
            "standard",
            "twin",
            "progress",
            "publish",
            "respell",
            "rounding",
            "preflight",
            "plainyaml",
            "complaints",
            "arrays",
            "target",
            "buckets",
            "profile",
            "theirs",
            "memory",
            "worker",
        }
    ),
    frozenset({"recipe", "report", "recognise", "capabilities"}),
    frozenset({"blocks", "models", "tasks", "weights", "rewrite", "quantize", "backends", "bundle", "runtime"}),
    frozenset(
        {
            "harness",
            "fed",
            "kits",
            "returned",
            "export",
            "source",
            "storage",
            "runnable",
            "signature",
            "obstacles",
            "eager",
            "calib",
        }
    ),
    frozenset({"opened", "choose", "benefits", "budget", "job", "slowness", "training"}),
    frozenset({"tune", "gating", "merging", "mend", "shelf", "prove"}),
    frozenset({"outcome"}),
    frozenset({"pipeline", "parts", "matrix"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
STAGES = {"export", "rewrite", "quantize", "backends"}
HEAVY = {
    "torch",
    "onnxruntime",
    "openvino",
    "nncf",
    "tensorrt",
    "tensorrt_rtx",
    "onnx",
    "onnx_ir",
    "onnxsim",
    "sklearn",
}
HEAVY |= {"matplotlib", "onnxscript", "safetensors"}
ENGINES = {"onnxruntime", "openvino", "nncf", "tensorrt", "tensorrt_rtx"}
TORCH_ROOMS = {
    "blocks",
    "models",
    "tasks",
    "weights",
    "training",
    "export",
    "source",
    "signature",
    "obstacles",
    "eager",
}
RUNTIME_MAY_LOAD = {"errors", "registry", "program", "decode", "files", "bundle", "backends", "runtime", "__init__"}


def room(path: Path) -> str:
    """The first part of a file's place below the package: ``rewrite/_rule.py`` -> ``rewrite``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


def imports(path: Path, *, lazy: bool) -> Iterator[tuple[str, int]]:
    """``(dotted module, line)``; without ``lazy`` only those that run when the file is imported."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazy
        if typing_only or inside_function:
            skipped |= {child for child in ast.walk(node) if child is not node}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "edgeattn":
                yield from ((f"edgeattn.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def ours(path: Path, *, lazy: bool) -> Iterator[tuple[str, int]]:
    for module, line in imports(path, lazy=lazy):
        parts = module.split(".")
        if parts[0] == "edgeattn":
            yield (parts[1] if len(parts) > 1 else "__init__"), line


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = room(path)
    for there, line in ours(path, lazy=True):
        known = any(there in names for names in LAYERS)
        assert not known or layer(there) <= layer(here), f"{path}:{line}: {here} must not import {there}"
        if here in STAGES and there in STAGES:
            assert here == there, f"{path}:{line}: stage {here} must not know stage {there}"


def test_every_room_has_a_layer() -> None:
    rooms = {room(p) for p in FILES} - {"py"}
    assert rooms == {name for names in LAYERS for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_inside_functions(path: Path) -> None:
    here = room(path)
    for module, line in imports(path, lazy=False):
        top = module.split(".")[0]
        if top in {"torch", "onnx", "onnx_ir", "safetensors"} and here in {*TORCH_ROOMS, "rewrite"}:
            continue
        assert top not in HEAVY, f"{path}:{line}: import {top} inside the function that needs it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_engines_and_torch_stay_in_their_rooms(path: Path) -> None:
    for module, line in imports(path, lazy=True):
        top = module.split(".")[0]
        if top == "torch":
            assert room(path) in TORCH_ROOMS, f"{path}:{line}: torch does not belong here"
        if top in ENGINES:
            own = [PACKAGE / "backends" / f"{top}.py", *(PACKAGE / "backends").glob(f"_{top}_*.py")]
            own += [PACKAGE / "quantize" / f"{top}.py"]
            assert path in own, f"{path}:{line}: {top} has its own file"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if room(path) == "cli":
        return
    tree = ast.parse(path.read_text())
    # `python -m` entries may hand their exit code to the shell.
    scripts = [n for n in tree.body if isinstance(n, ast.If) and "__main__" in ast.unparse(n.test)]
    allowed = {child for script in scripts for child in ast.walk(script)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in allowed:
            called = ast.unparse(node.func)
            assert called not in {"print", "sys.exit", "exit", "os._exit"}, f"{path}:{node.lineno}: {called}()"


@pytest.mark.parametrize("path", [p for p in FILES if room(p) == "runtime"], ids=lambda p: p.name)
def test_the_runtime_knows_only_what_an_edge_app_ships(path: Path) -> None:
    for there, line in ours(path, lazy=True):
        assert there in RUNTIME_MAY_LOAD, f"{path}:{line}: the runtime must not import {there}"


def test_importing_edgeattn_loads_nothing_heavy() -> None:
    heavy = sorted(HEAVY | {"numpy", "pydantic", "typer", "yaml"})
    loaded = _python(f"import edgeattn, sys; print([m for m in {heavy} if m in sys.modules])")
    assert loaded == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['edgeattn', '--help']\n"
        "from edgeattn.cli import main\n"
        "try: main()\n"
        f"except SystemExit: print([m for m in {sorted(HEAVY | {'numpy', 'pydantic', 'yaml'})} if m in sys.modules])"
    )
    assert _python(code).splitlines()[-1] == "[]"


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
