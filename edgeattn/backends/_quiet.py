"""Engines that report home by default are told not to, before they are imported.

Both send without asking: ONNX Runtime's Linux wheels from 1.29 on (session and model facts, with an identifier and a
database under ``~/.cache``; https://github.com/microsoft/onnxruntime/pull/27379), and ``import openvino`` where the
package ``openvino-telemetry`` is installed, which is its dependency (a forked process that posts an event).
"""

from __future__ import annotations

import os
import sys


def silence_engines() -> None:
    """Switch the engines' telemetry off for this process and its children.

    Who set ``ORT_DISABLE_TELEMETRY``, or imported an engine before edgeattn, has decided for themselves.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if "openvino" not in sys.modules:
        # OpenVINO then finds no telemetry package and uses the stub it brings for that case.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
