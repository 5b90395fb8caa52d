"""The LSTM's cell with its options: peepholes, coupled gates, c's zoneout, norms.

Gates i, f, g, o, or i, g, o where HAS.COUPLED: the forget gate is then 1 - i. The state is c. The
weights of a unit are the peepholes of i, f and o, or of i and o. `reference.pointwise` is the same
in plain PyTorch; the cell without options is printed from fused_lstm.cells.lstm.

A step is `forward` and `output`, between which c may be normalized; its backward is
`output_backward` and `inner_backward`.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import KernelCell
from .activation import sigmoid, tanh


@helper
def forward(gates, c, options, HAS: tl.constexpr):
    """Return the activated gates, the new c before zoneout, and c_next.

    gates: before activation. c: before the step.
    """
    peepholes, kept = options[0], options[1]
    i, g, o = gates[0], gates[HAS.G], gates[HAS.G + 1]
    if HAS.WEIGHTS:
        i += peepholes[0] * c
    i, g = sigmoid(i), tanh(g)
    if HAS.COUPLED:
        f = 1.0 - i
    else:
        f = gates[1]
        if HAS.WEIGHTS:
            f += peepholes[1] * c
        f = sigmoid(f)
    made = f * c + i * g
    if HAS.WEIGHTS:
        o += peepholes[HAS.G] * made
    c_next = made
    if HAS.ZONE_C:
        c_next = kept * c + (1.0 - kept) * made
    activated = (i, g, sigmoid(o)) if HAS.COUPLED else (i, f, g, sigmoid(o))
    return activated, made, c_next


@helper
def made_again(gates, c, c_next, options, HAS: tl.constexpr):
    """Return the new c of a step before zoneout.

    gates: the step's activated gates. c: before the step. c_next: after it, with zoneout.
    """
    if HAS.ZONE_C:
        i, g = gates[0], gates[HAS.G]
        f = 1.0 - i if HAS.COUPLED else gates[1]
        c_next = f * c + i * g
    return c_next


@helper
def output(gates, seen, HAS: tl.constexpr):
    """Return h, of the activated gates and the c that h sees."""
    return gates[HAS.G + 1] * tanh(seen)


@helper
def output_backward(gates, seen, dh, HAS: tl.constexpr):
    """Return the gradients by the output gate before activation and by the c that h sees."""
    o, tanh_c = gates[HAS.G + 1], tanh(seen)
    return dh * tanh_c * o * (1.0 - o), dh * o * (1.0 - tanh_c * tanh_c)


@helper
def inner_backward(gates, c, made, dc_next, do, dmade, options, HAS: tl.constexpr):
    """Return the gradients by the gates before activation, by c, and by the peepholes.

    They are computed from the activated gates, c before the step, the new c before zoneout, and the
    gradients by c_next, by the output gate and by the c that h saw.
    """
    i, g = gates[0], gates[HAS.G]
    f = 1.0 - i if HAS.COUPLED else gates[1]
    peepholes, kept = options[0], options[1]
    dc_kept = dc_next
    if HAS.ZONE_C:
        dc_kept = dc_next * kept
        dc_next -= dc_kept
    dc_next += dmade
    if HAS.WEIGHTS:
        dc_next += do * peepholes[HAS.G]
    dg = dc_next * i * (1.0 - g * g)
    dc = dc_next * f
    if HAS.COUPLED:  # what reaches i through g, less what does through its share 1 - i of c
        di = dc_next * (g - c) * i * (1.0 - i)
        dgates = (di, dg, do)
    else:
        di = dc_next * g * i * (1.0 - i)
        df = dc_next * c * f * (1.0 - f)
        dgates = (di, df, dg, do)
    dpeepholes = ()
    if HAS.WEIGHTS:
        dc += di * peepholes[0]
        dpeepholes = (di * c,)
        if not HAS.COUPLED:
            dc += df * peepholes[1]
            dpeepholes = dpeepholes + (df * c,)
        dpeepholes = dpeepholes + (do * made,)
    if HAS.ZONE_C:
        dc += dc_kept
    return dgates, dc, dpeepholes


@helper
def sums(by_x, by_h, HAS: tl.constexpr):
    """Return the gates before activation."""
    gates = ()
    count: tl.constexpr = HAS.G + 2
    for n in tl.static_range(count):
        gates = gates + (by_x[n] + by_h[n],)
    return gates


@helper
def step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    gates, made, c_next = forward(sums(by_x, by_h, HAS), states[0], options, HAS)
    return output(gates, made, HAS), (c_next,), gates


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    made = made_again(saved, states[0], after[0], options, HAS)
    do, dmade = output_backward(saved, made, dh, HAS)
    dgates, dc, dweights = inner_backward(
        saved, states[0], made, dafter[0], do, dmade, options, HAS
    )
    return dgates, dgates, (dc,), dweights


LSTM = KernelCell("lstm_with_options", step, backward, sums=4, saved=4)
COUPLED = KernelCell("coupled_with_options", step, backward, sums=3, saved=3)
