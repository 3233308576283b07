"""The real command line, hundreds of times without starting Python hundreds of times.

A helper process imports what commands import, then forks for every command: in the fork runs ``edgeattn.cli.main()``,
which forks its worker as always. Only the imports are warm; nothing is opened before the fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PRELOADED = (
    "edgeattn.cli.app", "edgeattn.storage", "edgeattn.recognise", "edgeattn.rewrite", "edgeattn.rewrite._walk",
    "edgeattn.backends", "edgeattn.bundle.manifest", "edgeattn.publish", "onnxruntime", "onnxsim", "rich.table",
    "rich.console", "onnx.inliner",
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """How a command ended; ``code`` is negative when a signal killed the process a user sees."""

    code: int
    stdout: str
    stderr: str
    seconds: float


class Warm:
    """Start once, ``run`` often."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("EDGEATTN_TIMEOUT", None)
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            files = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
            request = {"arguments": list(map(str, arguments)), "cwd": str(cwd or ROOT), "env": env or {}, "to": files}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            texts = [file.seek(0) or file.read().decode(errors="surrogateescape") for file in (out, err)]
        return Done(answer["code"], *texts, answer["seconds"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(20)


def _serve() -> None:
    import importlib
    import time

    for name in _PRELOADED:
        importlib.import_module(name)
    from edgeattn import registry, rewrite

    for rule in rewrite.ORDER:
        registry.get("rewrite", rule)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(request)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}))
        sys.stdout.flush()


def _become(request: dict[str, object]) -> None:
    """Turn this fork into ``edgeattn ARGUMENTS``; never returns."""
    from edgeattn.cli import main

    code: object = 99
    try:
        for number, path in enumerate(request["to"], 1):  # type: ignore[arg-type, var-annotated]
            opened = os.open(path, os.O_WRONLY)
            os.dup2(opened, number)
            os.close(opened)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.chdir(str(request["cwd"]))
        os.environ.update(request["env"])  # type: ignore[call-overload]
        sys.argv = ["edgeattn", *request["arguments"]]  # type: ignore[misc]
        main()
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    _serve()
