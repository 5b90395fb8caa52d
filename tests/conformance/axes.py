"""The values of each axis of a `Case`, which of them may stand together, and the lists of cases.

A pair that stands only beside a value which switches a part of the checks off can hide a fault. So
the pairs are chosen in three lists: `CHECKED` has no such value; `KEPT` has what stores or returns
more states, which takes another path; `AXES` has all.

Nothing here is read from fused_lstm: what a cell has is promised by this table.
"""

from __future__ import annotations

import random
from dataclasses import fields
from functools import cache

from case import Case
from pairs import pairwise

USUAL = {f.name: f.default for f in fields(Case)}
TORCHS = "lstm", "gru", "rnn_tanh", "rnn_relu"
# Options that a cell has beside layers, directions, dropout, lengths and resets.
HAS = {
    "lstm": "norm peephole coupled zoneout zone_c rdrop heads proj",
    "gru": "norm zoneout rdrop heads",
    "rnn_tanh": "heads",
    "rnn_relu": "heads",
    "slstm": "clip heads",
    "slstm_exponential": "clip heads",
    "dreamer": "heads",
    "zoo.lltm": "norm heads zoneout zone_c rdrop proj",  # a state c
    "zoo.peephole": "norm zoneout zone_c rdrop proj",  # and weights of a unit
    "zoo.mgu": "norm heads zoneout rdrop",  # h is its state; a gate in two parts
    "zoo.ind_rnn": "norm zoneout rdrop",  # and a weight of a unit
    "zoo.sru": "zoneout zone_c rdrop",  # no product with h
    "zoo.ran": "zoneout zone_c rdrop proj",  # rows of weights in another order than the gates
    "zoo.rhn": "norm heads",  # two states, h one of them
    "zoo.normalized": "norm heads proj",  # two, which begin at other values than 0
    "zoo.nbrc": "norm heads zoneout rdrop",  # a gate of x alone
    "zoo.cfc": "",  # an input beside x
    "zoo.gru_reset_before": "zoneout rdrop",  # a product inside the step
    "zoo.multiplicative_lstm": "zoneout zone_c rdrop proj",  # one of four columns
    "zoo.mogrifier": "",  # four products, and none with h
    "own.two_inputs": "zoneout zone_c rdrop proj",
    "own.of_three_widths": "",  # products that make other widths
}
WITH_INPUTS = "zoo.cfc", "own.two_inputs", "own.of_three_widths"
AXES = {
    "cell": tuple(HAS),
    "engine": (
        "native-layers", "native-steps", "native-pointwise", "native-hoisted", "loop-none",
        "loop-hoisted", "cudnn",
    ),
    "T": (5, 1, 2, 11),
    "B": (3, 1, 7, 21),
    "I": (3, 1, 19),
    "H": (8, 1, 4, 20, 68),
    "layers": (1, 2, 3),
    "directions": (1, 2, -1),
    "rows": ("plain", "batch_first", "unbatched", "lengths", "packed", "unsorted"),
    "resets": (False, True),
    "state": (True, False),
    "bias": (True, False),
    "dtype": ("float64", "float32", "bfloat16", "float16"),
    "mode": ("train", "eval", "eval-no_grad", "train-no_grad", "eval-inference"),
    "by": ("all", "y", "last", "end", "sum"),
    "needs": ("all", "weights", "inputs"),
    "norm": (False, True),
    "peephole": (False, True),
    "coupled": (False, True),
    "zoneout": ((0.0, 0.0), (0.3, 0.3), (0.4, 0.0), (0.0, 0.4), (1.0, 1.0)),
    "rdrop": (0.0, 0.4),
    "drop": (0.0, 0.3),
    "clip": (None, 0.05),
    "heads": (1, 2, 4),
    "proj": (False, True),
    "units": ((), (("z", 97), ("u", 3))),
    "inputs": ("one", "each", "both"),
    "recompute": (None, 1, 3),
    "states": (False, True),
    "door": (
        "module", "function", "stream", "prepared-float32", "prepared-bfloat16", "prepared-int8",
    ),
    "before": ("", "mode", "shape"),
    "after": ("", "written"),
    "memory": ("dense", "strided"),
    "precision": ("ieee", "tf32", "bf16"),
    "autocast": (False, True),
    "isa": ("", "sse2", "avx2", "avx512", "avx512_bf16", "amx"),
    "threads": (1, 2, 3),
}  # fmt: skip
KEPT = AXES | {
    "mode": ("train", "eval"), "by": ("all", "sum"), "needs": ("all",),
    "door": ("module", "function"),
    "before": ("",), "after": ("",), "memory": ("dense",), "autocast": (False,),
    "T": (5, 11, 2), "B": (3, 7, 21), "H": (8, 20, 68), "dtype": ("float64", "float32"),
}  # fmt: skip
CHECKED = KEPT | {"by": ("all",), "recompute": (None,), "states": (False,)}
# What is differentiated, mapped or traced otherwise; small, since the plain form runs.
TRANSFORMED = {
    "how": ("second", "jvp", "vmap", "per sample", "compiled", "exported"),
    "cell": ("lstm", "gru", "rnn_tanh", "slstm", "zoo.lltm", "zoo.rhn"),
    "engine": AXES["engine"][:-1],
    "T": (3,), "B": (2, 1), "H": (4, 6), "layers": (1, 2), "directions": (1, 2, -1),
    "rows": ("plain", "batch_first", "lengths", "packed"),
    "bias": (True, False), "resets": (False, True), "states": (False, True),
    "norm": (False, True), "peephole": (False, True), "coupled": (False, True),
    "zoneout": ((0.0, 0.0), (0.3, 0.3)), "rdrop": (0.0, 0.4),
    "drop": (0.0, 0.3), "heads": (1, 2), "proj": (False, True), "recompute": (None, 2),
}  # fmt: skip
# Triton's interpreter takes about a second for a case.
INTERPRETED = {
    "cell": (
        "lstm", "gru", "rnn_tanh", "rnn_relu", "slstm", "dreamer", "zoo.lltm", "zoo.rhn", "zoo.ran",
        "zoo.gru_reset_before", "zoo.multiplicative_lstm", "zoo.sru", "own.two_inputs",
    ),
    "engine": ("triton-layers", "triton-steps", "triton-hoisted", "triton-pointwise"),
    "T": (3, 1), "B": (3, 1, 18), "H": (5, 18), "layers": (1, 2), "directions": (1, 2, -1),
    "rows": ("plain", "lengths", "unsorted"), "resets": (False, True), "bias": (True, False),
    "dtype": ("float64", "float32"), "mode": ("train", "eval", "eval-no_grad", "eval-inference"),
    "norm": (False, True), "peephole": (False, True), "coupled": (False, True),
    "zoneout": ((0.0, 0.0), (0.3, 0.3)), "rdrop": (0.0, 0.4),
    "drop": (0.0, 0.3), "proj": (False, True), "needs": ("all", "weights"),
    "states": (False, True), "heads": (1, 2), "clip": (None, 0.05), "recompute": (None, 2),
    "inputs": ("one", "each", "both"), "by": ("all", "sum"),
    "plan": (
        "own", "groups of rows", "parts of the gates", "partly resident", "sums in 8 parts",
    ),
}  # fmt: skip
INTERPRETED_CHECKED = INTERPRETED | {
    "mode": ("train", "eval"), "needs": ("all",), "states": (False,), "recompute": (None,),
    "by": ("all",),
}  # fmt: skip


def may(a: str, x, b: str, y) -> bool:
    """Return whether a case may have x on axis a and y on axis b; asked in both orders."""
    match a:
        case "cell":
            return cell_may(x, b, y)
        case "engine":
            return engine_may(x, b, y)
        case "door":
            return door_may(x, b, y)
    match a, b:
        case "how", "rows" if x in ("vmap", "per sample"):  # its lengths are read on the way
            return y in ("plain", "batch_first", "lengths")
        case "how", "rows" if x in ("compiled", "exported"):  # the tests pack outside of a graph
            return y != "packed"
        case "layers", "drop":
            return x > 1 or y == 0
        case "plan", "engine" if x != "own":
            return y in ("triton-layers", "triton-steps")
        case "plan", "cell" if x != "own":  # a scan and heads have plans of their own
            return y not in ("slstm", "dreamer", "zoo.sru")
        case "plan", "heads" | "norm" if x != "own":  # several programs meet inside a step
            return y == USUAL[b]
        case "heads", "norm" | "peephole" | "coupled" | "zoneout" | "rdrop" | "proj":
            return x == 1 or y == USUAL[b]
        case "heads", "H":
            return y % x == 0
        case "coupled", "norm":
            return not (x and y)
        case "proj" | "norm", "H":  # the gates of one unit are too few for a deviation
            return not x or y > 1
        case "norm", "I":  # W x of one number has a gradient by x of which nothing is left
            return not x or y > 1
        case "recompute", "states" | "rdrop" | "drop" | "zoneout":
            return x is None or y == USUAL[b]  # a chunk draws masks of its own
        case "rows", "B" if x == "unbatched":  # it is 1
            return y == USUAL[b]
        case "rows", "T" if x in ("lengths", "packed", "unsorted"):
            return y > 1
        case "precision", "dtype" if x != "ieee":
            return y == "float32"
        case "precision", "isa" if x != "ieee":
            return y in ("", "avx512_bf16", "amx")
        case "autocast", "dtype" if x:
            return y in ("float64", "float32")
        case "autocast", "precision" if x:
            return y == "ieee"
        case "autocast", "isa" if x:
            return y != "sse2"
        case "isa", "dtype" if x == "sse2":
            return y != "bfloat16"
        case "isa", "dtype" if x in ("avx512_bf16", "amx"):  # others' are those of avx512
            return y in ("bfloat16", "float32", "float16")
        case "after", "rows" if x:
            return y == "plain"
        case "after", "mode" if x:
            return y in ("train", "eval")
        case "mode", "by" | "needs" if x not in ("train", "eval"):
            return y == "all"
        case "mode", "recompute" if x not in ("train", "eval"):
            return y in (None, 3)
    return True


def cell_may(cell: str, b: str, y) -> bool:
    """Return whether a cell may stand beside y on axis b."""
    options = HAS[cell].split()
    match b:
        case "norm" | "peephole" | "coupled" | "rdrop" | "clip" | "proj" | "heads":
            return y == USUAL[b] or b in options
        case "zoneout":
            return not any(y) or ("zoneout" in options and (y[1] == y[0] or "zone_c" in options))
        case "units":
            return not y or cell == "own.of_three_widths"
        case "inputs":
            return y == "one" or cell == "own.two_inputs" or (cell in WITH_INPUTS and y == "each")
        case "layers" if cell in WITH_INPUTS:
            return y == 1
        case "door" if cell in WITH_INPUTS:  # the function has no place for them
            return y != "function"
        case "isa" if cell.startswith(("zoo", "own")):  # compiled once, for the set that is used
            return y == "" or cell in ("zoo.lltm", "zoo.multiplicative_lstm", "zoo.rhn")
        case "precision":
            return y == "ieee" or cell in ("lstm", "gru", "rnn_tanh")
        # A quotient of small numbers, or a derivative that jumps: no bound on an error of 16 bits.
        case "dtype" if cell in ("zoo.normalized", "slstm_exponential", "rnn_relu", "zoo.ind_rnn"):
            return y in ("float64", "float32")
        case "dtype" if cell == "slstm":
            return y != "float16"
        case "autocast":
            return not y or cell in ("lstm", "gru", "rnn_tanh", "dreamer", "zoo.lltm", "zoo.mgu")
    match cell, b:
        case "zoo.normalized", "resets":  # is refused, as more layers of a cell with inputs are
            return not y
        case "dreamer", "layers" | "directions" | "bias" | "recompute" | "states" | "drop":
            return y == USUAL[b]
        case "dreamer", "rows" | "door":
            return y == USUAL[b]
        case "dreamer", "mode":
            return y != "train-no_grad"
        case "dreamer", "engine":
            return y in ("native-layers", "native-steps", "loop-none", "triton-layers")
    return True


def engine_may(engine: str, b: str, y) -> bool:
    """Return whether an engine may stand beside y on axis b."""
    name, _, level = engine.partition("-")
    of_nn_lstm = level in ("pointwise", "hoisted")
    match b:
        case "cell":
            return y in TORCHS if name == "cudnn" else y == "lstm" if of_nn_lstm else True
        case "norm" | "peephole" | "zoneout" | "rdrop" | "heads":
            return y == USUAL[b] or not (of_nn_lstm or name == "cudnn")
        case "resets" | "states":
            return not y or name != "cudnn"
        case "directions":
            return y > 0 or not (of_nn_lstm or name == "cudnn")
        case "drop":  # others do not draw by counter
            return y == 0 or name in ("native", "triton")
        case "dtype" if name not in ("native", "triton"):
            return y in ("float64", "float32")
        case "isa" | "precision" if name != "native":
            return y == USUAL[b]
        case "isa" if of_nn_lstm:
            return y in ("", "avx2", "avx512")
        case "after":  # elsewhere it is autograd's error
            return not y or engine in ("native-layers", "native-steps")
        case "autocast":
            return not y or name in ("native", "triton")
    return True


def door_may(door: str, b: str, y) -> bool:
    """Return whether a way to call may stand beside y on axis b."""
    match door, b:
        case "function", "rows":
            return y in ("plain", "lengths")
        case "function", "state":
            return y
        case "stream" | "function", "before":
            return y == ""
        case "stream", "after" | "resets" | "states" | "recompute" | "directions" | "memory":
            return y == USUAL[b]
        case "stream", "rows":
            return y == "plain"
        case "stream", "state":
            return not y
        case "stream", "mode":
            return y in ("eval-no_grad", "eval-inference")
        case "stream", "engine":
            return y != "cudnn"
        case "stream", "autocast":
            return not y
    if not door.startswith("prepared"):
        return True
    match b:
        case "cell":
            return y in (
                "lstm", "gru", "rnn_tanh", "rnn_relu", "zoo.lltm", "zoo.mgu", "zoo.cfc",
                "zoo.gru_reset_before", "own.two_inputs",
            )  # fmt: skip
        case "proj" if y:  # of a cell of one's own is left
            return True
        case "units":
            return not y
        case "mode":
            return y in ("eval-no_grad", "eval-inference")
        case "engine":
            return y == "native-layers"
        case "dtype":
            return y == "float32"
        case "H":  # of few units a byte's rounding has no mean: test_prepare.py has the formula
            return y >= 8 or door != "prepared-int8"
        case "isa":
            return y != "sse2" or door == "prepared-float32"
        case "norm" | "peephole" | "coupled" | "zoneout" | "rdrop" | "heads":
            return y == USUAL[b]
        case "recompute" | "states" | "before" | "after" | "precision" | "autocast":
            return y == USUAL[b]
    return True


def with_sizes(axes: dict, seed: int) -> dict:
    """Return axes with other sizes than the table's, except with seed 0."""
    draw = random.Random(seed)
    drawn = {
        name: draw.sample(range(1, most), 3)
        for name, most in (("T", 20), ("B", 40), ("I", 40), ("H", 90))
    }
    return axes if seed == 0 else axes | {n: (axes[n][0], *drawn[n]) for n in drawn}  # fmt: skip


# Cells whose options another cell has in the same way: a list of seed 0, which `make test` runs,
# leaves these pairs to the lists of other seeds, since each is a cell to compile.
ALIKE = {
    "zoo.peephole": ("zoneout", "rdrop", "proj"), "zoo.ran": ("zoneout", "rdrop", "proj"),  # lltm
    "zoo.ind_rnn": ("zoneout", "rdrop"), "zoo.nbrc": ("zoneout", "rdrop"),  # zoo.mgu
    "zoo.normalized": ("proj",), "own.two_inputs": ("proj",),  # zoo.multiplicative_lstm
    "zoo.lltm": ("isa",), "zoo.multiplicative_lstm": ("isa",),  # zoo.rhn
}  # fmt: skip


def first_may(a: str, x, b: str, y) -> bool:
    """Return what `may` does, in the list of seed 0."""
    return may(a, x, b, y) and not (a == "cell" and b in ALIKE.get(x, ()) and y != USUAL[b])


@cache
def cases(lists: int = 1, first: int = 0) -> tuple[Case, ...]:
    """Return cases with every pair, `lists` times, each time with other triples and sizes."""
    return tuple(
        Case(**chosen, seed=seed)
        for seed in range(first, first + lists)
        for chosen in pairwise(
            [with_sizes(axes, seed) for axes in (CHECKED, KEPT, AXES)],
            may if seed else first_may,
            seed,
        )
    )


@cache
def transformed() -> tuple[tuple[str, Case], ...]:
    """Return (how, case), with every pair of TRANSFORMED's values."""
    three = "jvp", Case(T=3, B=2, I=2, H=4, layers=3, heads=2, drop=0.3)  # two masks
    chosen = pairwise((TRANSFORMED,), may)
    return three, *((one.pop("how"), Case(**one, I=2)) for one in chosen)


def interpreted_may(a: str, x, b: str, y) -> bool:
    """Return what `may` does, of Triton: there no h is projected beside products inside a step."""
    both = {(a, x), (b, y)} >= {("cell", "zoo.multiplicative_lstm"), ("proj", True)}
    return may(a, x, b, y) and not both


@cache
def interpreted(lists: int = 1, first: int = 0) -> tuple[Case, ...]:
    """Return cases for Triton's interpreter."""
    return tuple(
        Case(**chosen, seed=seed)
        for seed in range(first, first + lists)
        for chosen in pairwise((INTERPRETED_CHECKED, INTERPRETED), interpreted_may, seed)
    )


# Sizes at which a kernel takes another path, for a threshold that no small size reaches.
LARGE = (
    Case(T=163, B=19, I=3, H=9),  # more rows than a part of a weight's gradient has
    Case(T=2, B=3, I=3101, H=5, dtype="float32"),  # more inputs than a panel packs at once
    Case(T=70, B=64, I=9, H=256, layers=2, dtype="float32", mode="eval-no_grad",
         threads=2),  # chunks
    Case(T=7, B=20, I=50, H=210, layers=2, dtype="float32", threads=2),  # layers in turns
    Case(T=7, B=20, I=50, H=110, layers=3, dtype="float32", threads=3, drop=0.3),  # a wavefront
    Case("gru", T=20, B=3, I=70, H=150, dtype="float32"),  # panels of one to four blocks
    Case("gru", T=9, B=33, I=35, H=40, layers=4, dtype="float32", threads=2),
    Case(T=12, B=19, I=51, H=211, layers=2, dtype="bfloat16", threads=2),
    Case("slstm", T=6, B=20, I=20, H=128, heads=4, dtype="float32", threads=2),
    Case(T=12, B=21, I=20, H=65, dtype="float32", directions=2, layers=2, rows="lengths",
         resets=True, drop=0.3, proj=True, threads=2),
    Case("zoo.ran", layers=2, directions=2, rows="lengths"),
    Case(T=11, H=20, norm=True),  # with c's bias
    Case("zoo.cfc_backbone", H=21, units=(("a", 33),), rows="lengths", directions=2, threads=2),
    Case("zoo.low_rank_rnn", H=40, units=(("low", 5),), resets=True),
    Case(engine="cudnn", H=9, coupled=True, proj=True),  # a P that three divides
    Case(engine="native-hoisted", layers=2, directions=2, rows="lengths"),  # its own backward
    Case("gru", T=6, B=1, H=520, heads=2, threads=2),  # few rows: weights read as they lie
    Case(engine="triton-layers", T=3, H=5, layers=3, drop=0.3),  # a wavefront
    Case("gru", "triton-layers", T=3, H=5, layers=2, rows="lengths", resets=True, rdrop=0.4),
    Case("zoo.peephole", "triton-layers", T=3, H=5, layers=2, zoneout=(0.3, 0.3)),
    Case("zoo.peephole", "triton-layers", T=3, norm=True, zoneout=(0.0, 0.3)),
    Case(engine="triton-layers", T=3, H=5, rows="lengths", norm=True,
         zoneout=(0.3, 0.3)),  # c before zoneout, made again
    # Gradients by the states of lower layers, and those by an input of one number.
    Case(T=3, H=5, layers=3, directions=2, states=True),
    Case(engine="triton-layers", T=3, H=5, layers=3, states=True),
    Case("gru", "triton-steps", T=3, H=5, layers=3, rows="lengths", states=True),
    Case("own.two_inputs", "triton-layers", T=3, H=5, directions=2),
    # Sums in parts, of several lanes at once and of more rows than a block has.
    Case(engine="triton-layers", T=2, B=18, H=40, layers=2, rows="lengths", resets=True, drop=0.3,
         plan="parts of the gates"),
    Case(engine="triton-steps", T=3, B=18, H=33, directions=2, rows="lengths", resets=True,
         plan="parts of the gates"),
    Case(engine="triton-layers", T=3, B=18, H=33, proj=True, resets=True,
         plan="parts of the gates"),
    Case(engine="triton-layers", T=3, B=20, H=33, layers=2, rows="lengths", plan="groups of rows"),
    # A program that has a lane alone keeps on chip what others exchange.
    Case(engine="triton-steps", T=4, H=7, directions=2, plan="alone"),
    Case(engine="triton-steps", T=5, B=9, H=17, layers=2, rows="lengths", plan="alone"),
    Case(engine="triton-steps", T=4, B=20, H=17, rows="lengths", directions=2, plan="alone"),
    Case(engine="triton-steps", T=4, B=17, H=9, layers=2, resets=True, directions=2, bias=False,
         plan="alone"),
    Case(engine="triton-steps", T=5, B=5, H=18, layers=2, rows="lengths", resets=True,
         directions=2, drop=0.3, plan="alone"),
    Case("own.two_inputs", T=3, H=5, directions=2),
    # A scan loads its first steps before its loop.
    Case("zoo.sru", "triton-steps", T=3, H=5, directions=-1),
    Case("zoo.sru", "triton-steps", T=3, H=5, directions=2),
    Case(engine="triton-layers", T=3, B=20, H=33, layers=2, rows="lengths", drop=0.3,
         coupled=True, proj=True, zoneout=(0.3, 0.2), resets=True),  # blocks of units and of rows
)  # fmt: skip
# No rows at all: shapes, and gradients of zeros.
EMPTY = tuple(
    Case(cell, engine, rows="empty", layers=layers, directions=2, states=engine != "cudnn")
    for cell, engine, layers in (
        ("lstm", "native-layers", 2), ("lstm", "native-pointwise", 1), ("lstm", "loop-none", 2),
        ("lstm", "cudnn", 1), ("gru", "native-layers", 1), ("slstm", "native-layers", 2),
        ("zoo.lltm", "native-layers", 2), ("lstm", "triton-layers", 2), ("gru", "loop-none", 1),
    )
)  # fmt: skip
