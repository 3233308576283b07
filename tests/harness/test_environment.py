from __future__ import annotations

import os
import subprocess
import sys

from edgeattn.harness.environment import describe

X86 = """processor\t: {i}
model name\t: Some CPU 9000
physical id\t: 0
core id\t\t: {core}
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8

"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""


def test_hardware_threads_of_one_core_count_once(tmp_path):
    (tmp_path / "cpuinfo").write_text("".join(X86.format(i=i, core=i // 2) for i in range(256)))
    found = describe(proc=tmp_path)
    usable = os.sched_getaffinity(0)
    assert found.cpu == "Some CPU 9000"
    assert found.isa == ("avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert found.logical == len(usable)
    assert found.cores == len({i // 2 for i in usable})


def test_arm_features_get_their_common_names(tmp_path):
    (tmp_path / "cpuinfo").write_text(ARM)
    found = describe(proc=tmp_path)
    assert found.isa == ("neon", "dotprod", "i8mm")
    assert found.cpu == "ARM implementer 0x41 part 0xd42"


def test_works_without_proc(tmp_path):
    found = describe(threads=2, proc=tmp_path / "absent")
    assert found.cpu
    assert found.cores >= 1
    assert found.isa == ()
    assert found.threads == 2


def test_this_machine_names_its_packages():
    found = describe()
    assert found.cores >= 1
    assert {"python", "numpy", "edgeattn"} <= set(found.versions)


def test_no_engine_is_imported():
    code = (
        "import sys, edgeattn.harness.environment as e; e.describe();"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'nncf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
