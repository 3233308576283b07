"""What a test needs is its marker; what is missing here skips it with the reason, unless it was promised to be here."""

from __future__ import annotations

import importlib.util
import os

import pytest

ENGINES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
PROMISED = [name for name in os.environ.get("EDGEATTN_REQUIRE", "").split(",") if name]


def missing(name: str) -> bool:
    return importlib.util.find_spec(ENGINES[name]) is None


def pytest_configure(config: pytest.Config) -> None:
    unknown = [name for name in PROMISED if name not in ENGINES]
    absent = [name for name in PROMISED if name not in unknown and missing(name)]
    if unknown or absent:
        raise pytest.UsageError(f"EDGEATTN_REQUIRE: not here: {', '.join(unknown + absent)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in ENGINES:
        if item.get_closest_marker(name) and missing(name):
            pytest.skip(f"needs {name}: pip install 'edgeattn[{'export' if name == 'torch' else name}]'")
