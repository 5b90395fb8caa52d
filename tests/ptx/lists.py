"""The lists of cases: all that `make ptx` runs, and a part that CI runs."""

from __future__ import annotations

from dataclasses import replace

from bench import zoo
from fused_lstm.call.spec import GRU, PLAIN, Spec

from .cases import DTYPES, Case, decoder, deep, free, held, norms, soft

FEW, MANY = (3, 2, 1), (3,) * 3 + (2,) * 14 + (1,) * 3  # lengths of 3 rows and of 20
ALL = Spec(peephole=True, zoneout=(0.3, 0.2), recurrent_dropout=0.3)
NORM, WHOLE = Spec(layer_norm=True), replace(ALL, layer_norm=True)
COUPLED, RNN = Spec(coupled=True), Spec("rnn_tanh")
# Cells that are told as functions: a state beside h, h as the state and a pair, no state; then two
# states, weights of a unit, eight gates, and no gate of h: a scan.
TOLD = [Spec(told.name) for told in (zoo.lltm, zoo.mgu, zoo.rnn)]
MORE = [Spec(told.name) for told in (zoo.rhn, zoo.liquid, zoo.nas, zoo.sru)]
# Products inside a step: of one column, of two, of four; two products. Sums beside products, and
# beside a state of fewer units than h.
PRODUCTS = [
    Spec(told.name) for told in (zoo.gru_reset_before, zoo.highway, zoo.multiplicative_lstm, deep)
]
SUMS = [Spec(told.name) for told in (norms, free, held, decoder)]
TOLD_NORM = Spec(zoo.mgu.name, layer_norm=True)
LOGARITHMS = Spec(zoo.slstm.name)
GRU_NORM = Spec("gru", layer_norm=True, zoneout=0.3, recurrent_dropout=0.3)
# Told cells as users have them: with logarithms, projected, normalized, weights of a unit, states
# that begin at other values than 0, a pair times a pair, a gate of x alone, scans.
USERS = [
    (LOGARITHMS, {}), (Spec(zoo.functions.name), {}), (Spec(soft.name), {}), (TOLD[0], {"P": 20}),
    (TOLD_NORM, {}), (Spec(zoo.lltm.name, layer_norm=True), {}), (Spec(zoo.mi_rnn.name), {}),
    (Spec(zoo.peephole.name), {}), (Spec(zoo.normalized.name), {}), (Spec(zoo.nbrc.name), {}),
    (Spec(zoo.qrnn.name), {"lengths": MANY}), (Spec(zoo.min_lstm.name), {"lengths": MANY}),
]  # fmt: skip
# A scan loads two steps ahead.
ONE_STEP = [{}, {"cell": MORE[-1]}, {"cell": PRODUCTS[-1]}, {"cell": SUMS[1]}]
# So it does backwards, and where rows end early or begin late.
ENDS = (5, 3, 1)
BACKWARDS = {"cell": Spec(zoo.min_gru.name, zoneout=0.3), "resets": True, "states": True}
ZONED = {"cell": Spec(zoo.qrnn.name, zoneout=(0.3, 0.2)), "resets": True}
SCANS = [
    ("both", {"L": 2, "cell": MORE[-1], "resets": True, "states": True}),
    ("steps", {**ZONED, "reverse": True}),
    ("steps", {**BACKWARDS, "reverse": True}),
    ("steps", {"cell": Spec(zoo.min_gru.name), "lengths": (5, 4, 4)}),
    ("steps", {"T": 2, "cell": Spec(zoo.min_gru.name)}),
    # From here on, those that CI runs too.
    ("both", {"L": 2, "cell": MORE[-1], "lengths": ENDS, "resets": True, "states": True}),
    ("steps", {**BACKWARDS, "reverse": True, "lengths": ENDS}),
]  # fmt: skip
LONG = {"T": 9}  # a fault may begin at the fourth wave
TWICE = {"T": 9, "calls": 2}
AGAIN = {"T": 5, "calls": 2}  # for CI


def every_case() -> list[Case]:
    """All that `make ptx` runs."""
    found = []
    for arch in (80, 90):
        for dtype in DTYPES:
            for H in (17, 33, 130):
                B = 20 if H == 33 else 3
                found.append(Case("pointwise", dtype, arch, H, B))
                for mode in ("persistent", "per-step"):
                    found.append(Case("steps", dtype, arch, H, B, mode=mode))
                    found.append(Case("layers", dtype, arch, H, B, L=2, mode=mode))
            found.append(Case("layers", dtype, arch, 17, L=3))
            found.append(Case("layers", dtype, arch, 33, 20, L=2, p=0.3))
            found.append(Case("steps", dtype, arch, 17, L=2, p=0.3))
            for path in ("streamed", "all streamed"):
                if dtype in ("bf16", "tf32"):
                    found.append(Case("steps", dtype, arch, 130, 20, path=path))
                    found.append(Case("layers", dtype, arch, 130, 3, L=2, path=path))
            found.append(Case("steps", dtype, arch, 33, 37, path="blocks of batch"))
            found += [Case(kind, dtype, arch, 33, 16, L=2) for kind in ("steps", "layers")]
            found.append(Case("steps", dtype, arch, 33, 37, path="groups of rows"))
            found += _lanes(dtype, arch) + _projected(dtype, arch) + _cells(dtype, arch)
            found += [Case("steps", dtype, arch, 33, 20, **LONG)]
            found += [Case("layers", dtype, arch, 17, L=3, p=0.3, **LONG)]
            found += [Case("steps", dtype, arch, 33, 20, L=2, **TWICE)]
            found += [Case("layers", dtype, arch, 17, L=3, p=0.3, **TWICE)]
            found += [Case("steps", dtype, arch, 17, T=1, **more) for more in ONE_STEP]
            found += [Case("layers", dtype, arch, 17, L=3, T=1, p=0.3, lengths=(1, 1, 1))]
            found += [Case(kind, dtype, arch, 17, **{"T": 5, **more}) for kind, more in SCANS]
            found.append(Case("both", dtype, arch, 5, 1, T=5, **ZONED))
            found.append(Case("both", dtype, arch, 5, 1, lengths=(3,), cell=MORE[-1]))
            found += _of_half(dtype, arch) if dtype in ("bf16", "fp16") else []
    return found


def _lanes(dtype: str, arch: int) -> list[Case]:
    """Two directions, rows that end, states that are zeroed."""
    found = []
    for lengths, resets in (((), False), (FEW, False), ((), True), (FEW, True)):
        found.append(Case("both", dtype, arch, 33, lengths=lengths, resets=resets))
        found.append(Case("layers", dtype, arch, 17, L=2, p=0.3, lengths=lengths, resets=resets))
    for path in ("blocks of batch", "groups of rows"):
        found.append(Case("both", dtype, arch, 17, 20, path=path, lengths=MANY, resets=True))
        found.append(Case("steps", dtype, arch, 17, 20, path=path, lengths=MANY, resets=True))
    found.append(Case("both", dtype, arch, 17, L=2, lengths=FEW, resets=True, mode="per-step"))
    for cell in (PLAIN, TOLD[0], PRODUCTS[-1], SUMS[0], LOGARITHMS):
        more = {"lengths": FEW, "resets": True, "cell": cell, "states": True}
        found += [Case(kind, dtype, arch, 17, L=2, p=0.3, **more) for kind in ("layers", "both")]
        more["reverse"] = True
        found += [Case(kind, dtype, arch, 17, L=2, p=0.3, **more) for kind in ("layers", "steps")]
    found.append(Case("layers", dtype, arch, 17, L=3, p=0.3, reverse=True))
    return found


def _projected(dtype: str, arch: int) -> list[Case]:
    """A projected h, with all that a lane may have."""
    found = [Case("steps", dtype, arch, H, B, P=P) for H, B, P in ((17, 3, 5), (130, 20, 70))]
    found.append(Case("steps", dtype, arch, 17, P=9, L=2, p=0.3, mode="per-step"))
    found.append(Case("layers", dtype, arch, 33, 20, L=2, P=20))
    for lengths, resets in (((), False), (FEW, False), ((), True), (FEW, True)):
        found.append(Case("both", dtype, arch, 33, P=20, lengths=lengths, resets=resets))
        found.append(
            Case("layers", dtype, arch, 17, L=2, P=9, p=0.3, lengths=lengths, resets=resets)
        )
    for path in ("blocks of batch", "groups of rows"):
        found.append(Case("both", dtype, arch, 17, 20, P=9, path=path, lengths=MANY, resets=True))
        found.append(Case("steps", dtype, arch, 33, 37, P=20, path=path))
    for path in ("streamed", "all streamed") if dtype in ("bf16", "tf32") else ():
        found.append(Case("steps", dtype, arch, 130, 20, P=100, path=path))
    found.append(Case("both", dtype, arch, 17, L=2, P=9, lengths=FEW, resets=True, mode="per-step"))
    return found


def _cells(dtype: str, arch: int) -> list[Case]:
    """Each of a cell's options, and all of them with all that a lane may have."""
    alone = [
        Spec(peephole=True), Spec(zoneout=(0.4, 0.0)), Spec(zoneout=(0.0, 0.4)),
        Spec(recurrent_dropout=0.4),
    ]  # fmt: skip
    found = [Case("layers", dtype, arch, 17, L=2, cell=cell) for cell in alone]
    found += [Case("steps", dtype, arch, H, B, cell=ALL) for H, B in ((33, 20), (130, 3))]
    found.append(Case("steps", dtype, arch, 17, L=2, p=0.3, mode="per-step", cell=ALL))
    found.append(Case("layers", dtype, arch, 33, L=3, p=0.3, lengths=FEW, resets=True, cell=ALL))
    found.append(Case("both", dtype, arch, 33, L=2, lengths=FEW, resets=True, cell=ALL))
    found.append(Case("layers", dtype, arch, 33, L=2, P=20, lengths=FEW, resets=True, cell=ALL))
    found.append(Case("both", dtype, arch, 17, P=9, lengths=FEW, resets=True, cell=ALL))
    for path in ("blocks of batch", "groups of rows"):
        found.append(Case("both", dtype, arch, 17, 20, path=path, lengths=MANY, cell=ALL))
        found.append(Case("steps", dtype, arch, 33, 37, path=path, P=20, cell=ALL))
        found.append(Case("both", dtype, arch, 33, 20, path=path, lengths=MANY, cell=NORM))
        found.append(Case("steps", dtype, arch, 17, 37, path=path, P=9, cell=NORM))
    found += [Case("steps", dtype, arch, H, B, cell=NORM) for H, B in ((17, 3), (130, 20))]
    found.append(Case("both", dtype, arch, 33, P=20, lengths=FEW, resets=True, cell=WHOLE))
    found.append(Case("steps", dtype, arch, 33, L=2, p=0.3, resets=True, cell=WHOLE))
    found += [Case("steps", dtype, arch, H, B, cell=GRU) for H, B in ((33, 20), (130, 3))]
    found.append(Case("layers", dtype, arch, 17, L=3, p=0.3, lengths=FEW, resets=True, cell=GRU))
    found.append(Case("both", dtype, arch, 33, L=2, lengths=FEW, resets=True, cell=GRU))
    found.append(Case("both", dtype, arch, 17, 20, path="groups of rows", lengths=MANY, cell=GRU))
    found += [Case("steps", dtype, arch, H, B, cell=GRU_NORM) for H, B in ((33, 20), (130, 3))]
    found.append(Case("both", dtype, arch, 33, L=2, lengths=FEW, resets=True, cell=GRU_NORM))
    for cell in (COUPLED, RNN, Spec("rnn_relu"), *TOLD):
        found += [Case("steps", dtype, arch, H, B, cell=cell) for H, B in ((33, 20), (130, 3))]
        found.append(
            Case("layers", dtype, arch, 17, L=3, p=0.3, lengths=FEW, resets=True, cell=cell)
        )
        found.append(Case("both", dtype, arch, 33, L=2, lengths=FEW, resets=True, cell=cell))
    found += [Case("steps", dtype, arch, 33, 20, cell=cell, **more) for cell, more in USERS]
    for cell in MORE:
        found.append(Case("steps", dtype, arch, 33, 20, cell=cell))
        found.append(Case("both", dtype, arch, 17, L=2, lengths=FEW, resets=True, cell=cell))
    for cell in (*PRODUCTS, *SUMS):
        found += [Case("steps", dtype, arch, 33, 20, cell=cell, **more) for more in ({}, TWICE)]
        found.append(Case("both", dtype, arch, 17, L=2, lengths=FEW, resets=True, cell=cell))
        found.append(Case("steps", dtype, arch, 17, L=2, p=0.3, mode="per-step", cell=cell))
        for path in ("blocks of batch", "groups of rows"):
            found.append(Case("both", dtype, arch, 17, 20, path=path, lengths=MANY, cell=cell))
        for path in ("streamed", "all streamed") if dtype in ("bf16", "tf32") else ():
            found.append(Case("steps", dtype, arch, 130, 20, T=2, path=path, cell=cell))
    return found


def _of_half(dtype: str, arch: int) -> list[Case]:
    """Plans that half precision alone has, and those that they replace."""
    found = []
    # Products whose warps share rows and columns, where they would share out a sum.
    path = {"path": "whole sums"}
    found += [Case("steps", dtype, arch, H, B, **path) for H, B in ((17, 3), (130, 20))]
    found.append(Case("steps", dtype, arch, 33, 20, **path, **LONG))
    found.append(Case("layers", dtype, arch, 33, L=2, p=0.3, lengths=FEW, resets=True, **path))
    found.append(Case("both", dtype, arch, 33, L=2, lengths=FEW, resets=True, **path))
    found += [Case("steps", dtype, arch, 33, 20, cell=cell, **path) for cell in (GRU, COUPLED, RNN)]
    found.append(Case("layers", dtype, arch, 17, L=3, cell=GRU, **path))
    path = {"path": "a gate each"}
    found += [Case("steps", dtype, arch, H, B, **path) for H, B in ((17, 3), (130, 20))]
    found.append(Case("layers", dtype, arch, 33, L=2, p=0.3, lengths=FEW, resets=True, **path))
    path = {"path": "streamed in parts", "T": 2}
    found.append(Case("steps", dtype, arch, 260, 20, **path))
    found.append(Case("both", dtype, arch, 260, lengths=(2, 2, 1), resets=True, cell=GRU, **path))
    # A program that has a lane to itself.
    path = {"path": "alone"}
    found += [Case("steps", dtype, arch, H, B, **path) for H, B in ((17, 3), (100, 20))]
    found.append(Case("steps", dtype, arch, 33, 20, L=2, p=0.3, **path, **LONG))
    for cell in (PLAIN, ALL, GRU, COUPLED, RNN):
        options = {"lengths": FEW, "resets": True, "cell": cell}
        found.append(Case("both", dtype, arch, 33, L=2, **options, **path))
        found.append(Case("steps", dtype, arch, 17, **options, **path))
    return found


def some_cases() -> list[Case]:
    """A part that has everything once, for CI: pairs of properties, where `make ptx` has products.

    Products of half precision differ between sm_80 and sm_90, and both have cases of them. Full
    precision takes the same instructions on both, and most of its cases are sm_80's.
    """
    rows, blocks = {"lengths": FEW, "resets": True}, {"path": "blocks of batch", "lengths": MANY}
    one_step = {"lengths": (1, 1, 1), "resets": True}
    return [
        Case("pointwise", "bf16", 90, 33),
        Case("steps", "bf16", 90, 17),
        Case("layers", "fp16", 90, 33, 16, L=2),  # whole blocks of rows: without a mask
        Case("layers", "tf32", 90, 17, L=3, **AGAIN),
        Case("steps", "fp16", 90, 17, L=2, P=9, p=0.3, mode="per-step"),
        Case("layers", "bf16", 90, 17, 20, L=2, path="groups of rows"),
        Case("steps", "bf16", 90, 130, 20, T=2, P=100, path="streamed"),
        Case("layers", "bf16", 90, 17, L=2, cell=GRU, path="whole sums"),
        Case("steps", "bf16", 90, 33, 20, path="a gate each"),
        Case("steps", "bf16", 90, 33, 20, path="alone", **LONG),
        Case("both", "bf16", 90, 17, P=9, cell=WHOLE, **rows),
        Case("layers", "bf16", 90, 33, 20, L=2, resets=True, cell=RNN),
        Case("steps", "fp32", 80, 17, cell=TOLD[1]),
        Case("both", "bf16", 90, 17, L=2, cell=MORE[2], **rows),  # eight gates
        # Several warps hold each element of a scan that has fewer of them than threads.
        Case("steps", "bf16", 90, 5, 1, T=5, cell=Spec(zoo.min_gru.name)),
        # One step, of kernels that other cases here have too.
        Case("steps", "bf16", 90, 17, T=1),
        Case("both", "bf16", 90, 17, T=1, L=2, cell=MORE[-1], **one_step),
        Case("both", "bf16", 90, 17, T=1, cell=PRODUCTS[-1], states=True, **one_step),
        Case(
            "both", "fp64", 80, 17, 20, T=1, cell=SUMS[1], path="blocks of batch", lengths=(1,) * 20
        ),
        *[Case(kind, "bf16", 90, 17, **{"T": 5, **more}) for kind, more in SCANS[-2:]],
        # Two values that a step compares are so close that bfloat16 would order them otherwise.
        Case("both", "bf16", 80, 17, cell=LOGARITHMS, lengths=FEW),
        Case("both", "bf16", 90, 17, cell=PRODUCTS[-1], states=True, **rows),
        Case("both", "bf16", 90, 17, cell=SUMS[0], states=True, **rows),
        Case("steps", "bf16", 90, 33, 37, path="groups of rows", cell=SUMS[1], **AGAIN),
        Case("both", "fp64", 80, 17, 20, cell=SUMS[1], **blocks),
        Case("steps", "bf16", 90, 33, 20, cell=SUMS[3], resets=True),
        Case("layers", "bf16", 90, 17, L=2, p=0.3, cell=TOLD[0], states=True, **rows),
        Case("pointwise", "fp32", 80, 33),
        Case("layers", "fp32", 80, 33, L=2, P=17, p=0.3),
        Case("both", "fp32", 80, 17, cell=GRU_NORM, **rows),
        Case("steps", "bf16", 80, 130, 32, T=2, path="streamed"),
        Case("steps", "bf16", 80, 33, 20, path="whole sums", **LONG),
        Case("both", "bf16", 80, 17, 20, P=9, **blocks),
        # In this one several warps hold the same rows.
        Case("steps", "fp64", 80, 17, 20, path="blocks of batch", P=9, cell=NORM),
    ]
