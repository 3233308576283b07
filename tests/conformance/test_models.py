"""What every reference model must be, whichever it is."""

import pytest
import torch

from edgeattn import models, registry
from edgeattn.models import Config, Model, Source
from tests.conftest import ROOT

pytestmark = pytest.mark.torch

FAMILIES = registry.names("models")
CONFIGS = models.configurations()
EXAMPLE_SIZES = ({"batch": 1, "source": 3, "height": 64, "width": 96}, {"batch": 2, "source": 5})


def sourced(name):
    """On the meta device, where weights cost neither time nor memory: only shapes matter here."""
    family, config = CONFIGS[name]
    with torch.device("meta"):
        module = family.build(**config.options).eval()
    return module, family.source(module)


def drawn(spec, sizes):
    shape = [sizes.get(d, 64) if isinstance(d, str) else d for d in spec.shape]
    if spec.dtype == "float32":
        return torch.randn(shape)
    return torch.ones(shape, dtype=torch.bool) if spec.dtype == "bool" else torch.zeros(shape, dtype=torch.int64)


@pytest.mark.parametrize("name", FAMILIES)
def test_is_registered_under_its_file_name_with_paper_and_card(name):
    family = registry.get("models", name)
    assert isinstance(family, Model)
    assert family.name == name
    assert family.paper
    assert family.configs
    assert "Source: " in registry.card("models", name)
    assert "Deviations: " in registry.card("models", name)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_configuration_says_what_it_is_and_names_a_real_task(name):
    config = CONFIGS[name][1]
    assert isinstance(config, Config)
    assert config.about
    assert config.task is None or config.task in registry.names("tasks")
    assert (config.weights is None) or config.task


@pytest.mark.parametrize("name", CONFIGS)
def test_specs_describe_what_the_module_takes_and_gives(name):
    module, source = sourced(name)
    assert isinstance(source, Source)
    assert (source.wiring is None) == (len(source.graphs) == 1)
    module.to("meta")
    for graph in source.graphs.values():
        for sizes in EXAMPLE_SIZES:
            inputs = [drawn(spec, sizes).to("meta") for spec in graph.inputs]
            with torch.no_grad():
                outputs = graph.module(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            assert len(outputs) == len(graph.outputs)
            assert all(output.shape[0] == sizes["batch"] for output in outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_wires_lead_from_real_outputs_to_real_inputs(family):
    _, source = sourced(next(iter(registry.get("models", family).configs)))
    if source.wiring is None:
        return
    inputs = {f"{g}.{spec.name}" for g, graph in source.graphs.items() for spec in graph.inputs}
    outputs = {f"{g}.{output}" for g, graph in source.graphs.items() for output in graph.outputs}
    edges = {**source.wiring.feeds, **source.wiring.state}
    assert set(edges) <= inputs
    assert set(source.wiring.feeds.values()) | set(source.wiring.state.values()) <= outputs
    assert source.wiring.stop.token in inputs
    assert source.wiring.stop.emits in outputs


TRAINED = [name for name, config in CONFIGS.items() if config[1].weights]


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_model_has_a_recipe_for_every_cpu_engine_in_fp32_and_int8(name):
    wanted = {
        f"{name}.{engine}.{precision}.yaml" for engine in ("onnxruntime", "openvino") for precision in ("fp32", "int8")
    }
    assert wanted <= {path.name for path in (ROOT / "export_configs").glob("*.yaml")}


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_builds_the_same_weights_and_leaves_the_global_stream_alone(name):
    family, config = CONFIGS[name]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = (family.build(**config.options, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
