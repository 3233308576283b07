"""The promises of SECURITY.md that are kept by what the code does not contain, and that each names a real test."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.test_model import ENGINES, X, bundle, classifier

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "edgeattn").rglob("*.py"))
NETWORK = {
    "socket",
    "ssl",
    "urllib",
    "http",
    "ftplib",
    "smtplib",
    "requests",
    "httpx",
    "aiohttp",
    "xmlrpc",
    "telnetlib",
}
DESERIALISERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def imported(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_imports_the_network_or_a_code_running_deserialiser(path: Path) -> None:
    assert not imported(ast.parse(path.read_text())) & (NETWORK | DESERIALISERS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_turns_data_into_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        where = f"{path.name}:{node.lineno}"
        assert called not in ("eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"), (
            where
        )
        assert given.get("shell", "False") == "False", where
        assert given.get("allow_pickle", "False") == "False", where
        if called in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", f"{where}: say allow_pickle=False"
        if called == "torch.load":
            assert given.get("weights_only") == "True", f"{where}: say weights_only=True"
        if called == "yaml.compose":
            assert path.name == "plainyaml.py", where


def test_an_npz_with_objects_in_it_does_not_run_them(tmp_path: Path) -> None:
    from edgeattn.bundle.manifest import SelfTestEntry
    from edgeattn.errors import IntegrityError
    from edgeattn.runtime import _model

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "owned",)  # type: ignore[return-value]

    np.savez(tmp_path / "s.npz", feed_0=np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(IntegrityError, match="not the sample"):
        _model._arrays(tmp_path / "s.npz", SelfTestEntry("s.npz", ("x",), (), False, {}))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to see system calls")
def test_opening_and_running_a_bundle_contacts_nobody_and_writes_nothing(name: str, tmp_path: Path) -> None:
    body = (
        "import sys, numpy as np, edgeattn.runtime as r\n"
        f"m = r.load(sys.argv[1]); m.run(x=np.array({X.tolist()}, np.float32))"
    )
    calls = system_calls(tmp_path, body, bundle(tmp_path, classifier(), name))
    assert not [call for call in calls if "AF_INET" in call]
    written = [call for call in calls if re.search(r"O_WRONLY|O_RDWR|O_CREAT|rename\w*\(|unlink\w*\(|mkdir\w*\(", call)]
    assert not [call for call in written if "/dev/" not in call and "= -1" not in call]


@pytest.mark.parametrize("name", [*ENGINES, pytest.param("tensorrt_rtx", marks=pytest.mark.tensorrt_rtx)])
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to see system calls")
def test_compiling_for_an_engine_contacts_nobody_and_writes_only_where_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    body = (
        "import sys; from pathlib import Path; from edgeattn import registry; from edgeattn.backends import Options\n"
        "from tests.runtime.test_model import classifier\n"
        f"b = registry.get('backends', '{name}'); b.probe()\n"
        "asked = Options(b.devices[0], profiles=({'batch': (1, 1, 2)},) if b.profiled else ())\n"
        "b.compile(classifier(), asked, Path(sys.argv[1]))"
    )
    calls = system_calls(tmp_path, body, tmp_path / "out")
    assert not [call for call in calls if "AF_INET" in call]
    written = [call for call in calls if re.search(r"O_WRONLY|O_RDWR|O_CREAT", call) and "= -1" not in call]
    elsewhere = [
        call
        for call in written
        if not re.search(r'"(/dev/|/proc/self/clear_refs|/tmp/(edgeattn-|[a-z0-9_]{8}")|%s)' % (tmp_path / "out"), call)
    ]
    assert not elsewhere


def system_calls(folder: Path, body: str, argument: Path) -> list[str]:
    """Network and writing system calls of a child that runs ``body``, with a home of its own to write into."""
    log = folder / "log"
    calls = "trace=connect,sendto,open,openat,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"
    allowed = ("ORT_DISABLE_TELEMETRY", "CI", "ORT_RUNNING_UNIT_TESTS")  # would hide what is looked for
    environment = {k: v for k, v in os.environ.items() if k not in allowed} | {"HOME": str(folder), "TMPDIR": "/tmp"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = ["strace", "-f", "-qq", "-e", calls, "-o", str(log), sys.executable, "-B", "-c", body, str(argument)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    seen = log.read_text().splitlines()
    assert any(str(argument) in call for call in seen)  # strace did see it
    return seen


def test_every_promise_names_a_test_that_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) >= 8
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text())
        assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"
    for promise in re.findall(r"^- \*\*.*(?:\n  .*)*", text.split("## Not promised")[0], re.MULTILINE):
        assert "`tests/" in promise, f"a promise without a test: {promise}"
