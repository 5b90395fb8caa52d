"""`Case`: one call of a recurrent layer, and everything that may be different about it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Case:
    cell: str = "lstm"  # torch's, slstm, slstm_exponential, dreamer, zoo.NAME, own.NAME, drawn.SEED
    engine: str = "native-layers"  # and its level
    T: int = 5
    B: int = 3
    I: int = 3
    H: int = 8
    layers: int = 1
    directions: int = 1  # -1: one that is reversed
    rows: str = "plain"  # plain, batch_first, unbatched, lengths, packed, unsorted, empty
    resets: bool = False
    state: bool = True  # whether the call is given one
    bias: bool = True
    dtype: str = "float64"
    mode: str = "train"  # train, eval; and without gradients: those with -no_grad or -inference
    # Which results the loss reads: all, y, last, end (y of the last step); sum: all without weights
    # of their own, so that gradients are expanded numbers.
    by: str = "all"
    needs: str = "all"  # who wants gradients: all, weights, inputs
    norm: bool = False  # layer_norm
    peephole: bool = False
    coupled: bool = False
    zoneout: tuple[float, float] = (0.0, 0.0)
    rdrop: float = 0.0  # recurrent_dropout
    drop: float = 0.0  # between layers
    clip: float | None = None
    heads: int = 1
    proj: bool = False
    units: tuple[tuple[str, int], ...] = ()  # of a cell with products: name, number
    inputs: str = "one"  # of a cell that has some: one number, one of each unit, or both in turn
    recompute: int | None = None
    states: bool = False  # return_states
    door: str = "module"  # module, function, stream (one step a call), prepared-DTYPE
    before: str = ""  # what the module has run before: the other "mode", or another "shape"
    after: str = ""  # written: the caller writes over y before the backward
    memory: str = "dense"  # strided: x and the states are parts of wider tensors
    precision: str = "ieee"  # of float32 products: tf32, bf16
    autocast: bool = False  # bfloat16
    isa: str = ""  # amx is emulated where this CPU has none
    threads: int = 1
    # Of Triton's steps and layers: the path that a launch takes in place of its own, a name of
    # PATHS_BACKWARD in tests/plans.py, or alone.
    plan: str = "own"
    seed: int = 0

    def __repr__(self) -> str:
        told = [(f.name, getattr(self, f.name)) for f in fields(self)]
        default = {f.name: f.default for f in fields(self)}
        return f"Case({', '.join(f'{n}={v!r}' for n, v in told if v != default[n])})"

    __str__ = __repr__

    @property
    def D(self) -> int:
        return abs(self.directions)

    @property
    def kind(self) -> str:
        return self.cell.removesuffix("_exponential")

    @property
    def computed(self) -> str:
        """The dtype of the results."""
        return "bfloat16" if self.autocast and self.dtype == "float32" else self.dtype

    @property
    def P(self) -> int:
        """The size of h."""
        return max(1, self.H * 2 // 3) if self.proj else self.H

    @property
    def rows_(self) -> int:
        return {"unbatched": 1, "empty": 0}.get(self.rows, self.B)

    @property
    def training(self) -> bool:
        return self.mode.startswith("train")

    @property
    def differentiated(self) -> bool:
        return self.mode in ("train", "eval")

    @property
    def draws(self) -> bool:
        return self.training and any((*self.zoneout, self.rdrop, self.drop))
