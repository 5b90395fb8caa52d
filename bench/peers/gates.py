"""Gate orders: where each library keeps i, f, g and o among the four blocks of its weights.

PyTorch's order is i, f, g, o along the first dimension of [4H, I]. Others transpose, and have
orders of their own; their g is often called j or c.
"""

from __future__ import annotations

import numpy as np

PYTORCH = "ifgo"
GRU = "rzn"  # PyTorch's
TENSORFLOW = "igfo"  # BasicLSTMCell: i, j, f, o
KERAS = "ifgo"  # i, f, c, o


def reorder(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """Move the gates' blocks of the first dimension, [G*H, ...], from one order to another."""
    blocks = dict(zip(source, np.split(array, len(source), axis=0), strict=True))
    return np.concatenate([blocks[gate] for gate in target], axis=0)


def layers(problem: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return PyTorch's weights by layer: weight_ih, weight_hh, bias_ih, bias_hh."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    count = len(problem["h0"])
    return [{kind: problem[f"{kind}_l{layer}"] for kind in kinds} for layer in range(count)]


def joint_kernel(layer: dict[str, np.ndarray], order: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one kernel [I + H, 4H] for [x, h], and one bias [4H], in `order`."""
    weight = np.concatenate([layer["weight_ih"], layer["weight_hh"]], axis=1)
    bias = layer["bias_ih"] + layer["bias_hh"]
    return reorder(weight, PYTORCH, order).T.copy(), reorder(bias, PYTORCH, order)


def from_joint(
    index: int, dkernel: np.ndarray, dbias: np.ndarray, order: str
) -> dict[str, np.ndarray]:
    """Return gradients under PyTorch's names. Both biases have the sum's gradient."""
    hidden = len(dbias) // 4
    weight = reorder(np.asarray(dkernel).T, order, PYTORCH)
    bias = reorder(np.asarray(dbias), order, PYTORCH)
    found = weight[:, :-hidden].copy(), weight[:, -hidden:].copy(), bias, bias
    return dict(zip(names(index), found, strict=True))


def names(index: int) -> list[str]:
    """Return PyTorch's names of a layer's weights."""
    return [f"{kind}_l{index}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
