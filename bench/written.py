"""Recurrent cells as people write them: modules of Linear layers, called in a loop over steps.

They are what `fused_lstm.fuse` is tested and measured with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Random = Callable[..., Tensor]  # random(*shape) -> numbers


class Written(NamedTuple):
    """A cell: make(I, H) -> a module; x(T, B, I, H, random) and state(B, H, random)."""

    make: Callable[[int, int], nn.Module]
    x: Callable[..., Any]
    state: Callable[..., Any]


def plain_x(T: int, B: int, I: int, H: int, random: Random) -> Tensor:
    """Return x [T, B, I]."""
    return random(T, B, I)


def one(B: int, H: int, random: Random) -> Tensor:
    """Return a state of one tensor [B, H]."""
    return random(B, H)


def two(B: int, H: int, random: Random) -> tuple[Tensor, Tensor]:
    """Return a state of two tensors [B, H]."""
    return random(B, H), random(B, H)


def x_and_times(T: int, B: int, I: int, H: int, random: Random) -> tuple[Tensor, Tensor]:
    """Return x and the time since the step before, [T, B, 1]."""
    return random(T, B, I), random(T, B, 1).abs()


def x_and_clock(T: int, B: int, I: int, H: int, random: Random) -> tuple[Tensor, Tensor]:
    """Return x and the time of each step, [T, B, 1]."""
    return random(T, B, I), random(T, B, 1).abs() * 50


def x_of_nodes(T: int, B: int, I: int, H: int, random: Random) -> Tensor:
    """Return x of eight nodes, [T, B, 8, I / 8]."""
    return random(T, B, 8, I // 8)


def state_of_nodes(B: int, H: int, random: Random) -> Tensor:
    """Return a state of eight nodes, [B, 8, H / 8]."""
    return random(B, 8, H // 8)


def two_and_y(B: int, H: int, random: Random) -> tuple[Tensor, Tensor, Tensor]:
    """Return a state of two tensors [B, H], and what the step before returned, [B, H / 4]."""
    return random(B, H), random(B, H), random(B, H // 4)


def h_and_memory(B: int, H: int, random: Random) -> tuple[Tensor, Tensor]:
    """Return a state [B, H], and a memory of as many numbers and a half, [B, 3 H / 2]."""
    return random(B, H), random(B, H + H // 2)


def spikes(B: int, H: int, random: Random) -> Tensor:
    """Return a state of zeros and ones, [B, H]."""
    return (random(B, H) > 0).to(random(1).dtype)


CELLS: dict[str, Written] = {}


def written(name: str, x: Callable = plain_x, state: Callable = one) -> Callable:
    """Put a class of modules into CELLS; a decorator."""

    def put(make: Any) -> Any:
        CELLS[name] = Written(make, x, state)
        return make

    return put


@written("lstm_4_linear", state=two)
class LSTM4(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.f, self.i, self.g, self.o = (nn.Linear(I + H, H) for _ in range(4))

    def forward(self, x, state):
        h, c = state
        z = torch.cat((x, h), dim=1)
        f, i, g, o = (
            torch.sigmoid(self.f(z)),
            torch.sigmoid(self.i(z)),
            torch.tanh(self.g(z)),
            torch.sigmoid(self.o(z)),
        )
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, (h, c)


@written("lstm_8_linear", state=two)
class LSTM8(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        for n in "figo":
            setattr(self, "w" + n, nn.Linear(I, H))
            setattr(self, "u" + n, nn.Linear(H, H, bias=False))

    def forward(self, x, state):
        h, c = state
        f = torch.sigmoid(self.wf(x) + self.uf(h))
        i = torch.sigmoid(self.wi(x) + self.ui(h))
        o = torch.sigmoid(self.wo(x) + self.uo(h))
        g = torch.tanh(self.wg(x) + self.ug(h))
        c = c * f + i * g
        return o * torch.tanh(c), (o * torch.tanh(c), c)


@written("lstm_one_linear", state=two)
class LSTM1(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.lin = nn.Linear(I + H, 4 * H)
        self.H = H

    def forward(self, x, state):
        h, c = state
        gates = self.lin(torch.cat([x, h], -1))
        H = self.H
        ifo = torch.sigmoid(gates[:, : 3 * H])
        g = torch.tanh(gates[:, 3 * H :])
        c = ifo[:, H : 2 * H] * c + ifo[:, :H] * g
        h = ifo[:, 2 * H :] * c.tanh()
        return h, (h, c)


@written("lstm_parameters", state=two)
class LSTMP(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        k = H**-0.5
        self.W = nn.Parameter(torch.empty(I, 4 * H).uniform_(-k, k))
        self.U = nn.Parameter(torch.empty(H, 4 * H).uniform_(-k, k))
        self.b = nn.Parameter(torch.zeros(4 * H))
        self.H = H

    def forward(self, x, state):
        h, c = state
        gates = x @ self.W + h @ self.U + self.b
        i, f, g, o = (
            gates[:, : self.H],
            gates[:, self.H : 2 * self.H],
            gates[:, 2 * self.H : 3 * self.H],
            gates[:, 3 * self.H :],
        )
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * torch.tanh(c)
        return h, c


@written("lstm_cell_head", state=two)
class CellHead(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.enc = nn.Linear(I, H)
        self.cell = nn.LSTMCell(H, H)
        self.out = nn.Linear(H, 10)

    def forward(self, x, state):
        h, c = self.cell(F.relu(self.enc(x)), state)
        return F.log_softmax(self.out(h), -1), (h, c)


@written("gru_reset_after")
class GRUA(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.x2h = nn.Linear(I, 3 * H)
        self.h2h = nn.Linear(H, 3 * H)

    def forward(self, x, h):
        xr, xz, xn = self.x2h(x).chunk(3, 1)
        hr, hz, hn = self.h2h(h).chunk(3, 1)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * hn)
        return n + z * (h - n)


@written("gru_reset_before")
class GRUB(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.r, self.z, self.n = (nn.Linear(I + H, H) for _ in range(3))

    def forward(self, x, h):
        xh = torch.cat([x, h], 1)
        r, z = torch.sigmoid(self.r(xh)), torch.sigmoid(self.z(xh))
        n = torch.tanh(self.n(torch.cat([x, r * h], 1)))
        return (1 - z) * h + z * n


@written("layer_norm_lstm", state=two)
class LNLSTM(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.W = nn.Linear(I, 4 * H, bias=False)
        self.U = nn.Linear(H, 4 * H, bias=False)
        self.lx, self.lh, self.lc = nn.LayerNorm(4 * H), nn.LayerNorm(4 * H), nn.LayerNorm(H)

    def forward(self, x, state):
        h, c = state
        i, f, g, o = (self.lx(self.W(x)) + self.lh(self.U(h))).chunk(4, 1)
        c = self.lc(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


@written("peephole_lstm", state=two)
class Peephole(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.x, self.h = nn.Linear(I, 4 * H), nn.Linear(H, 4 * H, bias=False)
        self.pi, self.pf, self.po = (nn.Parameter(torch.randn(H) * 0.1) for _ in range(3))

    def forward(self, x, state):
        h, c = state
        i, f, g, o = (self.x(x) + self.h(h)).chunk(4, 1)
        i, f = torch.sigmoid(i + self.pi * c), torch.sigmoid(f + self.pf * c)
        c = f * c + i * torch.tanh(g)
        o = torch.sigmoid(o + self.po * c)
        h = o * torch.tanh(c)
        return h, (h, c)


@written("feature_attention", state=two)
class AttnLSTM(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.att = nn.Linear(I + H, I)
        self.lin = nn.Linear(I + H, 4 * H)

    def forward(self, x, state):
        h, c = state
        a = torch.softmax(self.att(torch.cat([x, h], 1)), -1)
        i, f, g, o = self.lin(torch.cat([a * x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, a), (h, c)


@written("highway_lstm", state=two)
class Highway(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.cell = nn.LSTMCell(I, H)
        self.t = nn.Linear(I, H)
        self.p = nn.Linear(I, H)

    def forward(self, x, state):
        h, c = self.cell(x, state)
        t = torch.sigmoid(self.t(x))
        return t * h + (1 - t) * self.p(x), (h, c)


@written("cfc", x=x_and_times)
class CfC(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.bb = nn.Linear(I + H, 128)
        self.f1, self.f2, self.ta, self.tb = (nn.Linear(128, H) for _ in range(4))

    def forward(self, xt, h):
        x, ts = xt
        z = 1.7159 * torch.tanh(0.666 * self.bb(torch.cat([x, h], 1)))
        a, b = torch.tanh(self.f1(z)), torch.tanh(self.f2(z))
        t = torch.sigmoid(self.ta(z) * ts + self.tb(z))
        return a * (1 - t) + t * b


@written("ltc")
class LTC(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.inp, self.rec = nn.Linear(I, H), nn.Linear(H, H, bias=False)
        self.A, self.gleak, self.vleak, self.cm = (
            nn.Parameter(torch.randn(H)),
            nn.Parameter(torch.rand(H)),
            nn.Parameter(torch.randn(H) * 0.1),
            nn.Parameter(torch.rand(H) + 0.5),
        )

    def forward(self, x, v):
        drive = self.inp(x)
        cm = F.softplus(self.cm) * 6
        for _ in range(6):
            f = torch.sigmoid(drive + self.rec(v))
            v = (cm * v + self.gleak * self.vleak + f * self.A) / (cm + self.gleak + f + 1e-8)
        return v


@written("ltc_pairwise")
class LTCP(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        H_ = H
        self.inp = nn.Linear(I, H)
        self.w, self.mu, self.sig, self.erev = (nn.Parameter(torch.rand(H_, H_)) for _ in range(4))
        self.gleak, self.cm = nn.Parameter(torch.rand(H)), nn.Parameter(torch.rand(H) + 0.5)

    def forward(self, x, v):
        drive = self.inp(x)
        for _ in range(6):
            act = self.w * torch.sigmoid(self.sig * (v.unsqueeze(2) - self.mu))
            num, den = (act * self.erev).sum(1) + drive, act.sum(1)
            v = (self.cm * v + num) / (self.cm + self.gleak + den + 1e-8)
        return v


def values_and_masks(T: int, B: int, I: int, H: int, random: Random) -> tuple[Tensor, ...]:
    """Return values, masks, times and last values, [T, B, I] each."""
    x, last = random(T, B, I), random(T, B, I)
    return x, (random(T, B, I) > 0).to(x.dtype), random(T, B, I).abs(), last


@written("gru_d", x=values_and_masks)
class GRUD(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.gx, self.gh = nn.Linear(I, I), nn.Linear(I, H)
        self.register_buffer("mean", torch.randn(I))
        self.z, self.r, self.n = (nn.Linear(2 * I + H, H) for _ in range(3))

    def forward(self, inp, h):
        x, m, d, last = inp
        gx = torch.exp(-torch.clamp(self.gx(d), min=0))
        gh = torch.exp(-torch.clamp(self.gh(d), min=0))
        x = m * x + (1 - m) * (gx * last + (1 - gx) * self.mean)
        h = gh * h
        k = torch.cat((x, h, m), 1)
        z, r = torch.sigmoid(self.z(k)), torch.sigmoid(self.r(k))
        n = torch.tanh(self.n(torch.cat((x, r * h, m), 1)))
        return (1 - z) * h + z * n


@written("rssm")
class RSSM(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.inp, self.ln1 = nn.Linear(I, H), nn.LayerNorm(H, eps=1e-3)
        self.gru, self.ln2 = nn.Linear(2 * H, 3 * H, bias=False), nn.LayerNorm(3 * H, eps=1e-3)
        self.prior = nn.Linear(H, 32)

    def forward(self, x, h):
        x = F.silu(self.ln1(self.inp(x)))
        reset, cand, update = self.ln2(self.gru(torch.cat([x, h], -1))).chunk(3, -1)
        cand = torch.tanh(torch.sigmoid(reset) * cand)
        update = torch.sigmoid(update - 1)
        h = update * cand + (1 - update) * h
        return {"deter": h, "prior": F.softmax(self.prior(h), -1)}, h


@written("min_gru")
class MinGRU(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.z, self.h = nn.Linear(I, H), nn.Linear(I, H)

    def forward(self, x, h):
        z = torch.sigmoid(self.z(x))
        return (1 - z) * h + z * self.h(x)


class ATanSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, g):
        (v,) = ctx.saved_tensors
        return g / (1 + (math.pi * v) ** 2)


@written("lif", state=lambda B, H, r: {"v": r(B, H), "z": spikes(B, H, r)})
class LIF(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.fc, self.rec = nn.Linear(I, H), nn.Linear(H, H, bias=False)
        self.beta = 0.9

    def forward(self, x, st):
        v = self.beta * st["v"] + self.fc(x) + self.rec(st["z"]) - st["z"].detach()
        z = ATanSpike.apply(v - 1.0)
        return z, {"v": v, "z": z}


@written("adaptive_lif", state=lambda B, H, r: (r(B, H), r(B, H), spikes(B, H, r)))
class ALIF(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.fc, self.rec = nn.Linear(I, H), nn.Linear(H, H, bias=False)
        self.tm, self.ta = (
            nn.Parameter(torch.full((H,), 20.0)),
            nn.Parameter(torch.full((H,), 150.0)),
        )

    def forward(self, x, st):
        v, b, z = st
        alpha, rho = torch.exp(-1 / self.tm), torch.exp(-1 / self.ta)
        b = rho * b + (1 - rho) * z
        theta = 0.1 + 1.8 * b
        v = alpha * v + (1 - alpha) * (self.fc(x) + self.rec(z)) - theta * z
        z = ATanSpike.apply(v - theta)
        return (z, v), (v, b, z)


@written("co_rnn", state=two)
class CoRNN(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.i2h, self.h2h = nn.Linear(I, H), nn.Linear(2 * H, H, bias=False)

    def forward(self, x, hy, hz):
        hz = hz + 0.042 * (
            torch.tanh(self.i2h(x) + self.h2h(torch.cat((hz, hy), 1))) - 2.7 * hy - 4.7 * hz
        )
        hy = hy + 0.042 * hz
        return hy, hz


@written("echo_state")
class ESN(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.register_buffer("Win", torch.randn(H, I) * 0.5)
        self.register_buffer(
            "W", torch.randn(H, H) * (torch.rand(H, H) < 0.1) / math.sqrt(0.1 * H) * 0.9
        )
        self.out = nn.Linear(H, 3)
        self.leak = 0.3

    def forward(self, u, h):
        h = (1 - self.leak) * h + self.leak * torch.tanh(
            F.linear(u, self.Win) + F.linear(h, self.W)
        )
        return self.out(h), h


@written("ind_rnn")
class Ind(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.w = nn.Linear(I, H)
        self.u = nn.Parameter(torch.rand(H))

    def forward(self, x, h):
        return F.relu(self.w(x) + self.u * h)


@written("multiplicative_lstm", state=two)
class MLSTM(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.mx, self.mh = nn.Linear(I, H, bias=False), nn.Linear(H, H, bias=False)
        self.x, self.m = nn.Linear(I, 4 * H), nn.Linear(H, 4 * H)

    def forward(self, x, state):
        h, c = state
        m = self.mx(x) * self.mh(h)
        i, f, o, g = torch.split(self.x(x) + self.m(m), h.shape[1], 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


@written("mogrifier", state=two)
class Mog(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.q = nn.ModuleList(nn.Linear(H, I) for _ in range(3))
        self.r = nn.ModuleList(nn.Linear(I, H) for _ in range(2))
        self.x, self.h = nn.Linear(I, 4 * H), nn.Linear(H, 4 * H)

    def forward(self, x, state):
        h, c = state
        for k in range(5):
            if k % 2 == 0:
                x = 2 * torch.sigmoid(self.q[k // 2](h)) * x
            else:
                h = 2 * torch.sigmoid(self.r[k // 2](x)) * h
        i, f, g, o = (self.x(x) + self.h(h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


@written("phased_lstm", x=x_and_clock, state=two)
class Phased(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.cell = nn.LSTMCell(I, H)
        self.tau = nn.Parameter(torch.rand(H) * 9 + 1)
        self.shift = nn.Parameter(torch.rand(H))
        self.r_on = 0.1

    def forward(self, xt, state):
        x, t = xt
        h0, c0 = state
        h, c = self.cell(x, (h0, c0))
        phi = torch.remainder(t - self.shift, self.tau) / self.tau
        k = torch.where(
            phi < self.r_on / 2,
            2 * phi / self.r_on,
            torch.where(phi < self.r_on, 2 - 2 * phi / self.r_on, 0.001 * phi),
        )
        h, c = k * h + (1 - k) * h0, k * c + (1 - k) * c0
        return h, (h, c)


@written("decoder_head", state=two)
class Decoder(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.pre = nn.Sequential(nn.Linear(I, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU())
        self.rnn = nn.LSTMCell(H, H)
        self.norm, self.head = (
            nn.LayerNorm(H),
            nn.Sequential(nn.Linear(H, H), nn.GELU(), nn.Linear(H, 50)),
        )

    def forward(self, x, state):
        h, c = self.rnn(self.pre(x), state)
        return {"logits": self.head(self.norm(h)), "energy": (h * h).mean(-1)}, (h, c)


@written("decoder_feedback", state=two_and_y)
class DecoderFeedback(nn.Module):
    """A decoder that reads what it has said."""

    def __init__(self, I, H):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(I + H // 4, H), nn.Linear(H, H // 4)

    def forward(self, x, state):
        h, c, y = state
        h, c = self.cell(torch.cat([x, y], -1), (h, c))
        y = torch.softmax(self.head(h), -1)
        return y, (h, c, y)


@written("lmu", state=h_and_memory)
class LMU(nn.Module):
    """The last H numbers of a signal as coefficients of Legendre's polynomials (Voelker 2019)."""

    def __init__(self, I, H):
        super().__init__()
        order = H + H // 2
        n = torch.arange(order)
        below = torch.where(n[:, None] < n, -1.0, (-1.0) ** (n[:, None] - n + 1))
        scale = (2.0 * n[:, None] + 1) / (order * order)
        self.register_buffer("A", torch.eye(order) + below * scale)
        self.register_buffer("B", ((-1.0) ** n) * scale[:, 0])
        self.of_x, self.of_h, self.of_m = (nn.Linear(k, 1, bias=False) for k in (I, H, order))
        self.x, self.h = nn.Linear(I, H), nn.Linear(H, H, bias=False)
        self.m = nn.Linear(order, H, bias=False)

    def forward(self, x, state):
        h, m = state
        signal = self.of_x(x) + self.of_h(h) + self.of_m(m)
        m = m @ self.A.T + signal * self.B
        h = torch.tanh(self.x(x) + self.h(h) + self.m(m))
        return h, (h, m)


@written("skip_rnn")
class SkipRNN(nn.Module):
    """One number a row decides how much of its state a step leaves as it is."""

    def __init__(self, I, H):
        super().__init__()
        self.x, self.h, self.skip = nn.Linear(I, H), nn.Linear(H, H), nn.Linear(H, 1)

    def forward(self, x, h):
        skip = torch.sigmoid(self.skip(h))
        return skip * h + (1 - skip) * torch.tanh(self.x(x) + self.h(h))


@written("dcrnn", x=x_of_nodes, state=state_of_nodes)
class DC(nn.Module):
    def __init__(self, I, H):
        super().__init__()
        self.register_buffer("S", torch.softmax(torch.randn(8, 8), -1))
        F_, G = I // 8, H // 8
        self.ru, self.c = nn.Linear(2 * (F_ + G), 2 * G), nn.Linear(2 * (F_ + G), G)

    def conv(self, x, lin):
        return lin(torch.cat([x, torch.matmul(self.S, x)], -1))

    def forward(self, x, h):
        r, u = torch.sigmoid(self.conv(torch.cat([x, h], -1), self.ru)).chunk(2, -1)
        c = torch.tanh(self.conv(torch.cat([x, r * h], -1), self.c))
        return u * h + (1 - u) * c
