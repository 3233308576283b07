"""The command line, hundreds of times without starting Python hundreds of times.

A helper process imports what commands import and forks for every request; only the imports are warm, nothing is open
before the fork. ``run`` is the real ``edgeattn.cli.main()``, which forks its worker as always, in the caller's
directory and environment of that moment. ``run_together`` runs several commands one after another in one fork, without
a worker around each: a third of the time, for files that do not reach native code or are known to leave it alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
_PRELOADED = (
    "edgeattn.cli.app", "edgeattn.storage", "edgeattn.recognise", "edgeattn.rewrite", "edgeattn.rewrite._walk",
    "edgeattn.backends", "edgeattn.bundle.manifest", "edgeattn.publish", "onnxruntime", "onnxsim", "rich.table",
    "rich.console", "onnx.inliner",
)  # fmt: skip
# What a run imports first; none of it starts a thread.
EXPORTER = (
    "torch",
    "torch._dynamo",
    "torch.onnx._internal.exporter",
    "onnxscript",
    "sklearn.datasets",
    "edgeattn.pipeline",
)


@dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
        code: negative when a signal killed the process a user sees.
        seconds: computing time, of all its processes.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float


class Warm:
    """Start once, run often; a context manager.

    Args:
        environment: laid over the caller's.
        preloaded: modules to import beside those that every command imports.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, preloaded: Sequence[str] = ()) -> None:
        self._own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
        command = [sys.executable, __file__, *preloaded]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment(),
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, **self._own}
        environment.pop("EDGEATTN_TIMEOUT", None)
        return environment

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate(timeout=20)

    def run(self, *arguments: object, cwd: Path = ROOT, timeout: float | None = None) -> Done:
        """One command, with its worker.

        Raises:
            TimeoutError: after ``timeout`` seconds; the helper is killed with all that it started.
        """
        return self._ask([arguments], supervised=True, cwd=cwd, timeout=timeout)[0]

    def run_together(self, commands: Sequence[Sequence[object]]) -> list[Done]:
        """Several commands in one process; those that a crash kept from running have the code -1 and so has it."""
        return self._ask(commands, supervised=False)

    def _ask(
        self, commands: Sequence[Sequence[object]], supervised: bool, cwd: Path = ROOT, timeout: float | None = None
    ) -> list[Done]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.ExitStack() as stack:
            files = [[stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)] for _ in commands]
            requests = [
                {"arguments": [*map(str, arguments)], "to": [f"/proc/{os.getpid()}/fd/{f.fileno()}" for f in three]}
                for arguments, three in zip(commands, files, strict=True)
            ]
            where = {"cwd": str(cwd), "environment": self._environment()}
            stdin.write(json.dumps({"commands": requests, "supervised": supervised, **where}) + "\n")
            stdin.flush()
            if not select.select([stdout], [], [], timeout)[0]:
                os.killpg(self._process.pid, signal.SIGKILL)
                raise TimeoutError(f"{commands}: not done after {timeout} s")
            ended = json.loads(stdout.readline())
            return [_done(ended, *three) for three in files]


def _done(ended: dict[str, Any], out: IO[bytes], err: IO[bytes], result: IO[bytes]) -> Done:
    texts = []
    for file in (out, err, result):
        file.seek(0)
        texts.append(file.read().decode(errors="surrogateescape"))
    told = json.loads(texts[2]) if texts[2] else ended
    return Done(told["code"], texts[0], texts[1], told["seconds"])


def _serve() -> None:
    import gc
    import importlib

    for name in (*_PRELOADED, *sys.argv[1:]):
        importlib.import_module(name)
    from edgeattn import registry, rewrite

    for rule in rewrite.ORDER:
        registry.get("rewrite", rule)
    gc.freeze()  # a collection in a fork would write to, and so copy, every page of what was imported
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["environment"])
            sys.path[0] = request["cwd"]  # as `python -m edgeattn` has it
            (_supervised if request["supervised"] else _together)(request["commands"])
        _, status, usage = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        # Together, a command that left no result of its own was killed or never run.
        ended = {"code": code if request["supervised"] else -1, "seconds": usage.ru_utime + usage.ru_stime}
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()


def _point(number: int, path: str) -> None:
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, number)
    os.close(opened)


def _supervised(commands: list[dict[str, Any]]) -> None:
    """Turn this fork into ``edgeattn ARGUMENTS``; never returns."""
    from edgeattn.cli import main

    code: object = 99
    try:
        (command,) = commands
        for number, path in enumerate([os.devnull, *command["to"][:2]]):
            _point(number, path)
        sys.argv = ["edgeattn", *command["arguments"]]
        main()
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def _together(commands: list[dict[str, Any]]) -> None:
    """Run commands as workers do, but all in this fork; never returns."""
    from edgeattn import cli

    try:
        _point(2, os.devnull)  # what native code prints; a worker's parent holds it back
        for command in commands:
            out, err, result = command["to"]
            _point(1, out)
            with open(err, "w") as sys.stderr:
                sys.argv = ["edgeattn", *command["arguments"]]
                before = os.times()
                code = cli._work()
                after = os.times()
                sys.stdout.flush()
            seconds = after.user + after.system - before.user - before.system
            Path(result).write_text(json.dumps({"code": code, "seconds": seconds}))
    finally:
        os._exit(0)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    _serve()
