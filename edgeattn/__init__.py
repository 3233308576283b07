"""edgeattn: PyTorch attention models to verified, custom-op-free engines for small machines."""

__version__ = "0.1.0"
