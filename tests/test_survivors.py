"""Jobs in children that die go on without the step that killed them."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import ROOT

JOBS = """
import json, os, signal, time
from tests.benchmarks import survivors

survivors.HANG_SECONDS = 1.0

def job(number, known, report):
    def step(name, do):
        if name not in known:
            report(name, None)
            report(name, do())
    step("first", lambda: number * 10)
    step("second", lambda: {1: lambda: os.kill(os.getpid(), signal.SIGSEGV), 2: lambda: os._exit(3),
                            3: lambda: time.sleep(60)}.get(number, lambda: "fine")())
    step("third", lambda: os.getpid() and "after")

known = [{}, {}, {}, {}, {"second": "known"}]
print(json.dumps(dict(survivors.each(job, known, 2, lambda how: how))))
"""


def test_a_step_that_crashes_exits_or_hangs_is_an_answer_and_the_rest_is_done() -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOBS], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    found = {int(number): steps for number, steps in json.loads(done.stdout).items()}
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert [found[n]["second"] for n in range(5)] == [
        *("fine", "crashed (signal 11)", "crashed (exit 3)", "hung for 1 s", "known"),
    ]
    assert [found[n]["first"] for n in range(5)] == [0, 10, 20, 30, 40]
    assert {steps["third"] for steps in found.values()} == {"after"}
