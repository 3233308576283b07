"""How a model is compiled: the settings of each device, what is really in force, and which device runs what.

Nothing is left to a default that changes numbers: the inference precision is pinned on every device, activations are
quantized only where INT8 is asked for, and ``auto`` waits for its device instead of answering on another meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeattn.backends._common import refusal, usable_cores
from edgeattn.backends._openvino_devices import absent, called, look, members, takes
from edgeattn.backends._openvino_models import core
from edgeattn.errors import MissingPackage
from edgeattn.phase import native

if TYPE_CHECKING:
    from edgeattn.backends import Options

# Along the depth of a layer whose weights alone are INT8, so many activations share a scale; the engine's own choice.
# A larger group was no faster and less accurate (luong_2x512: 49.6 dB at 256, 51.5 at 32).
GROUP = 32

_PINNED = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_READ_BACK = {
    "threads": "INFERENCE_NUM_THREADS",
    "inference_precision": "INFERENCE_PRECISION_HINT",
    "hint": "PERFORMANCE_HINT",
}
_HELD = ("Constant", "Parameter", "Result")  # not executed
_NAMED = 5  # layers that are named of those on another device than the one asked first


def compiled(model: Any, options: Options, counted: bool = False) -> Any:
    """The model compiled for the device that the options name.

    Raises:
        EngineFailed, OutOfResources: OpenVINO does not compile it.
    """
    try:
        with native("OpenVINO", "compiling the graph"):
            return core().compile_model(model, called(options.device), settings(model, options, counted))
    except MissingPackage:
        raise
    except Exception as error:
        raise refusal("openvino", error) from error


def settings(model: Any, options: Options, counted: bool = False) -> dict[str, Any]:
    """What ``compile_model`` is given; for several devices, to each its own."""
    kind = options.device.partition(":")[0]
    if kind not in ("auto", "hetero"):
        return _single(options.device, model, options, counted)
    listed = [name for name in members(options.device) if kind == "hetero" or look(name).here]
    each = {name.upper(): _single(name, model, options, counted) for name in listed}
    if kind == "hetero":
        return {"DEVICE_PROPERTIES": each}
    # Without the first it would answer on the CPU until the other device is ready, and be timed on both.
    return {"ENABLE_STARTUP_FALLBACK": False, "PERFORMANCE_HINT": options.hint.upper(), "DEVICE_PROPERTIES": each}


def _single(name: str, model: Any, options: Options, counted: bool) -> dict[str, Any]:
    kind = name.partition(".")[0]
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": options.hint.upper(),
        "INFERENCE_PRECISION_HINT": pinned(kind, model, options),
        **({"PERF_COUNT": True} if counted else {}),
    }
    if kind == "cpu":
        chosen["INFERENCE_NUM_THREADS"] = options.threads or usable_cores()
    # By default activations are quantized wherever a weight is INT8, and a cache inside fused attention is INT8,
    # whatever precision is asked for.
    rounding: dict[str, Any] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP if options.precision == "int8" else 0}
    if (kept := chosen["INFERENCE_PRECISION_HINT"]) != "dynamic":
        rounding["KV_CACHE_PRECISION"] = kept
    return chosen | ({key: v for key, v in rounding.items() if takes(name, key)} if kind in ("cpu", "gpu") else {})


def pinned(kind: str, model: Any, options: Options) -> str:
    """The precision to pin; of a graph that says itself what computes in BF16, its own: the FP32 in it would go.

    Around INT8, GPUs and NPUs compute in FP16, whatever is asked for: it is what their INT8 layers read and write.
    """
    asked = options.around if options.precision == "int8" else options.precision
    if options.precision == "int8" and kind in ("gpu", "npu"):
        asked = "fp16"
    typed = any(port.get_element_type().get_type_name() == "bf16" for op in model.get_ops() for port in op.outputs())
    return "dynamic" if asked == "bf16" and typed else _PINNED[asked]


def in_force(model: Any, compiled_model: Any, options: Options) -> dict[str, Any]:
    """Device, settings and placement, as OpenVINO reports them of what it compiled."""
    devices = ",".join(name.strip("()") for name in compiled_model.get_property("EXECUTION_DEVICES")).lower()
    told: dict[str, Any] = {"device": devices, "settings": _read_back(compiled_model, devices)}
    if missing := absent(options.device):
        told["absent"] = missing
    if options.device.startswith("hetero"):
        told["placement"] = placement(model, options.device)
    return told


def _read_back(compiled_model: Any, devices: str) -> dict[str, Any]:
    """The settings in force; those of a device behind ``auto`` or ``hetero`` by its name, where there are several."""
    supported = compiled_model.get_property("SUPPORTED_PROPERTIES")
    if "DEVICE_PROPERTIES" in supported:
        each = dict(compiled_model.get_property("DEVICE_PROPERTIES"))
        told = {name.lower(): _words(lambda key, of=of: of[key], of) for name, of in each.items()}
        return next(iter(told.values())) if list(told) == [devices] else told
    return _words(compiled_model.get_property, supported)


def _words(value: Any, known: Any) -> dict[str, Any]:
    found = {word: value(key) for word, key in _READ_BACK.items() if key in known}
    return {word: _plain(v) for word, v in found.items()}


def _plain(value: Any) -> Any:
    """A property as JSON holds it."""
    if isinstance(value, int | bool):
        return int(value)
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value).rpartition(".")[2]


def placement(model: Any, device: str) -> dict[str, Any]:
    """How many layers each device of a list is given, and the first of those that the most wanted one does not take."""
    with native("OpenVINO", "asking the devices"):
        given = core().query_model(model, called(device))
    ran = {op.get_friendly_name() for op in model.get_ops() if op.get_type_name() not in _HELD}
    on = {name: where.lower() for name, where in given.items() if name in ran}
    elsewhere = {name: where for name, where in on.items() if where != members(device)[0]}
    return {"layers": dict(sorted(Counter(on.values()).items())), "elsewhere": dict(list(elsewhere.items())[:_NAMED])}


def planned(settings_of: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a device which is not here would be given, as JSON holds them."""
    return {key.lower(): planned(v) if isinstance(v, Mapping) else v for key, v in settings_of.items()}
