"""A look at an ONNX file before any engine sees it: what it is, whether it is whole, and what it would make us open.

``read_model`` gives a model that is complete in memory (external data read in), well formed, and within the versions
and operators edgeattn supports; everything else is refused with the file, the tensor or node, and the likely cause.
"""

from edgeattn.preflight._check import check_model
from edgeattn.preflight._read import read_model

__all__ = ["check_model", "read_model"]
