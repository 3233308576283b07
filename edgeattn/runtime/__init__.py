"""Run a bundle: numpy and one engine, nothing else.

```python
import edgeattn.runtime

with edgeattn.runtime.load("bundle") as model:
    outputs = model.run(x=image)
```
"""

from edgeattn.runtime._model import Model, SelfTest, load

__all__ = ["Model", "SelfTest", "load"]
