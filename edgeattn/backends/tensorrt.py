"""tensorrt: NVIDIA TensorRT, on the machine whose GPU the engine is for: its builder measures kernels there.

Engine file: ``<graph>.plan``, for this GPU and this version. ``tensorrt:10.3`` insists on the version;
``tensorrt:dla0`` is an accelerator of a Jetson, with the GPU for what that cannot do.

``tensorrt-rtx`` builds the same graphs on a machine without a GPU, which shows that they are taken; how fast they are
shows here alone.
"""

from __future__ import annotations

from typing import Any

from edgeattn import outside
from edgeattn import profile as profiles
from edgeattn.backends import Availability, Executed, Options, Refusal
from edgeattn.backends import _nvidia as nvidia
from edgeattn.backends._tensorrt import TensorRtBackend
from edgeattn.backends._tensorrt_build import Built
from edgeattn.backends._tensorrt_layers import inspected
from edgeattn.backends._tensorrt_settings import Settings
from edgeattn.backends._tensorrt_versions import Version, of, without_dla
from edgeattn.capabilities import closest
from edgeattn.errors import MissingPackage
from edgeattn.program import Program

_DLA = ("dla0", "dla1")
_VERSIONS = ("8.5", "8.6", "10.3", "10.7", "10.13", "10.16", "11.4")
"""Those of JetPack 5.1 to 7.2.2, the releases that devices are stuck with."""


class TensorRtGpuBackend(TensorRtBackend):
    """The TensorRT engine."""

    name = "tensorrt"
    extra = "tensorrt"
    title = "TensorRT"
    devices = ("gpu", *_DLA, *_VERSIONS)
    teller = "the engine's inspector"
    knobs = Settings

    def library(self) -> Any:
        """``tensorrt``."""
        try:
            import tensorrt
        except ImportError as error:
            raise MissingPackage(self.name, self.extra, why="a Jetson has it in its system Python") from error
        return tensorrt

    def version(self, options: Options) -> Version:
        """The row for the version that is here."""
        return of(str(self.library().__version__), options.device in _DLA)

    def capabilities(self, options: Options) -> tuple[str, ...]:
        """This machine's."""
        return ()

    def known_as(self, options: Options) -> str:
        """The version that is asked for, else that which is here, else the newest that is known."""
        asked = options.device if options.device in _VERSIONS else self.probe().version
        return f"tensorrt:{closest('tensorrt', asked)}"

    def executes(self, options: Options) -> Availability:
        """Wherever it can build."""
        here = self.probe()
        return nvidia.runs(()) if here.available else here

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """As for every TensorRT; also where no GPU is here, or another version than was asked for."""
        refusals = super().unsupported(program, options)
        here = self.probe()
        if not nvidia.capabilities():
            why = "it measures kernels while it builds, and this machine has no NVIDIA GPU"
            refusals.append(Refusal("*", "", why, "build for tensorrt-rtx here, or on the device"))
        if options.device in _VERSIONS and here.available and not here.version.startswith(f"{options.device}."):
            why = f"TensorRT {here.version} is here, and a plan is opened by the version that built it"
            refusals.append(Refusal("*", "", why, f"build where TensorRT {options.device} is"))
        if options.settings.get("strip") and any(outside.tensors(model) for model in program.graphs.values()):
            why = "weights that lie in files beside the graph cannot be put back into a plan without weights"
            refusals.append(Refusal("*", "", why, "leave strip out"))
        if options.precision == "bf16" and here.available and self.version(options).precision:
            refusals.append(Refusal("*", "", f"TensorRT {here.version} has no bf16 here", "use precision fp16"))
        return refusals + (self._not_for_dla(program, options, here) if options.device in _DLA else [])

    def _not_for_dla(self, program: Program, options: Options, here: Availability) -> list[Refusal]:
        why = without_dla(here.version, options.precision) if here.available else ""
        refusals = [Refusal("*", "", why, "build for the GPU: -t tensorrt")] if why else []
        dynamic = profiles.dynamic(program)
        if dynamic:
            hint = f"fix it: `edgeattn rewrite --fix {dynamic[0]}=1`"
            refusals.append(Refusal("*", "", f"a DLA takes fixed sizes, and '{dynamic[0]}' is dynamic", hint))
        return refusals

    def configure(self, config: Any, options: Options) -> Any:
        """Settings, and the accelerator that layers go to."""
        trt = self.library()
        if options.device in _DLA:
            core = _DLA.index(options.device)
            config.default_device_type, config.DLA_core = trt.DeviceType.DLA, core
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        return Settings.of(options).apply(trt, config, self.title)

    def _executed(self, built: Built, model: Any, options: Options) -> list[Executed]:
        """From the engine's own inspector: this builder needs a GPU, so the plan can be opened beside it.

        A plan with code for the host is not opened, so its layers are not told.
        """
        from edgeattn.backends._tensorrt_session import deserialized

        if options.settings.get("version_compatible"):
            return []
        trt = self.library()
        inspector = deserialized(trt, built.plan, self.title).create_engine_inspector()
        return inspected(inspector.get_engine_information(trt.LayerInformationFormat.JSON), model)


BACKEND = TensorRtGpuBackend()
