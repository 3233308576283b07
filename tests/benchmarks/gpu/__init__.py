"""Our engines beside PyTorch and ONNX Runtime on one NVIDIA GPU, everything on the device; see ``__main__.py``."""
