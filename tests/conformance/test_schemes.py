"""What every quantization scheme must do, run over the folder of schemes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn import backends, decode, registry
from edgeattn.errors import MissingPackage, Unsupported
from edgeattn.program import Case, Program, StageRecord
from edgeattn.quantize import Settings, names, quantize
from edgeattn.standard import foreign_nodes
from tests.graphs import conv_net

pytestmark = pytest.mark.onnxruntime
DATA = [Case("c", {"image": np.random.default_rng(i).standard_normal((4, 3, 8, 8)).astype(np.float32)}) for i in (0, 1)]


DIALECTS = {registry.get("backends", name).qdq: name for name in registry.names("backends")}


@pytest.fixture(params=DIALECTS, ids=DIALECTS.values())
def settings(request: pytest.FixtureRequest) -> Settings:
    return Settings(qdq=request.param)


@pytest.mark.parametrize("name", names())
def test_has_a_card_and_names_its_precision(name: str) -> None:
    stem = name.replace("-", "_")
    scheme = registry.get("quantize", stem)
    assert scheme.name == name
    assert scheme.precision in ("int8", "fp16", "bf16", "fp32")
    card = registry.card("quantize", stem)
    assert card.startswith(f"{name}: ")
    assert all(part in card for part in ("What:", "Why:", "Source:"))


@pytest.mark.parametrize("name", names())
def test_gives_valid_standard_graphs_that_compute_nearly_the_same(name: str, settings: Settings) -> None:
    program = Program({"main": conv_net()}, history=(StageRecord("test", 0.0),))
    digest = program.digest()
    if name == "int8-dynamic" and not settings.qdq.dynamic:
        with pytest.raises(Unsupported, match="quantizes no activations while it runs"):
            quantize(program, name, backends.oracle, iter(DATA), settings)
        return
    try:
        result = quantize(program, name, backends.oracle, iter(DATA), settings)
    except MissingPackage as missing:
        pytest.skip(str(missing))
    assert program.digest() == digest
    assert result.history[-1].name == "quantize"
    onnx.checker.check_model(result.graphs["main"], full_check=True)
    assert foreign_nodes(result.graphs["main"]) == []
    before, after = (decode.run(backends.rounded(p), None, DATA[0].feeds)["features"] for p in (program, result))
    # 20 dB is where the parity gate fails a quantized output.
    noise = max(np.linalg.norm(before - after), 1e-9)  # a scheme that leaves convolutions alone gives the same
    assert 20 * np.log10(np.linalg.norm(before) / noise) > 20


@pytest.mark.parametrize("name", names())
def test_refuses_what_is_quantized_or_typed_already(name: str) -> None:
    for first in ("int8-static", "int8-weights", "fp16"):
        before = quantize(Program({"main": conv_net()}), first, backends.oracle, iter(DATA))
        with pytest.raises(Unsupported, match=r"is quantized already|is float16, and schemes start from float32"):
            quantize(before, name, backends.oracle, iter(DATA))
