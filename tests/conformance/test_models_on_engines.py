"""Every reference model through export and rewrite on every CPU engine: the numbers are PyTorch's.

The trained configurations run by default; those of paper size take minutes and gigabytes, and run with ``-m paper``.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeattn import backends, decode, models, registry, weights
from edgeattn.backends import Options
from edgeattn.export import export, program_inputs
from edgeattn.harness.parity import Limits, judge
from edgeattn.rewrite import rewrite
from edgeattn.standard import assert_standard

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]

CONFIGS = models.configurations()
ALL = [pytest.param(n, marks=() if c.weights else pytest.mark.paper) for n, (_, c) in CONFIGS.items()]
ENGINES = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("onnxruntime", "openvino")]


@pytest.fixture(scope="module", params=ALL)
def rewritten(request):
    """``(Source, the exported program, the rewritten one)``; pytest runs all tests of one model together."""
    family, config = CONFIGS[request.param]
    module = family.build(**config.options).eval()
    if config.weights:
        weights.load(module, config.weights)
    source = family.source(module)
    exported = export(source)
    return source, exported, rewrite(exported, backends.oracle)


def test_its_cases_cover_two_sizes_of_all_that_varies_and_the_edges_of_every_mask(rewritten):
    source, program, _ = rewritten
    cases = program.reference.cases
    for spec in program_inputs(source):
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                sizes = {case.feeds[spec.name].shape[axis] for case in cases}
                assert len(sizes) > 1, f"{spec.name} has {dim} {sizes} in every case"
        if spec.dtype == "bool" and len(spec.shape) == 2:
            lengths = np.concatenate([case.feeds[spec.name].sum(1) for case in cases])
            longest = max(case.feeds[spec.name].shape[1] for case in cases)
            assert {0, 1, longest} <= set(lengths.tolist()), (
                f"{spec.name} is True {sorted(set(lengths.tolist()))} times"
            )


def test_every_stage_is_made_of_standard_operators_and_undoes_nothing(rewritten):
    _, exported, program = rewritten
    assert_standard(exported, "export")
    assert_standard(program, "rewrite")
    undone = {r["rule"]: r["undone"] for r in program.history[-1].notes["rules"] if r.get("undone")}
    assert not undone


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_gives_pytorchs_numbers_in_every_case(rewritten, engine):
    _, _, program = rewritten
    backend = registry.get("backends", engine)
    options = Options("cpu", threads=1)
    assert not backend.unsupported(program, options)
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    parity = judge(
        engine,
        lambda case: decode.run(sessions, program.wiring, case.feeds, case.tokens),
        program.reference.cases,
        Limits.of("fp32"),
    )
    faults = {n: f"{o.observed} on {o.worst_case}: {o.why}" for n, o in parity.outputs.items() if o.verdict != "pass"}
    assert not faults
