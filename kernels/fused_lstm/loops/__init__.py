"""A person's own recurrent loop, unchanged: traced, taken apart, and run by the kernels.

`layer.py` has the public part. A step becomes a graph (`capture.py`, `guards.py`), the graph its
parts (`parts.py`). The part that stays in the loop becomes expressions of unit vectors
(`places.py`, `vectors.py`), these a cell of the engines (`norms.py`, `lower.py`, `stock.py`), and a
call's tensors the engine's (`tensors.py`). `tiers.py` runs a call, `check.py` compares the first.
"""

from .layer import Fused, as_resets, fuse

__all__ = ["Fused", "as_resets", "fuse"]
