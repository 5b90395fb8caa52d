"""The PTX machine, instruction by instruction: integers, lanes and memory, against NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptx import build
from ptx.by_hand import N, integers, launch, signed, torch_of, words
from ptx.instructions import Unsupported
from ptx.parser import Program
from ptx.run import STRICT

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

# --- integers ---

BINARY = {
    "add.s": lambda a, b: a + b,
    "sub.s": lambda a, b: a - b,
    "mul.lo.s": lambda a, b: a * b,
    "and.b": np.bitwise_and,
    "or.b": np.bitwise_or,
    "xor.b": np.bitwise_xor,
    "min.u": np.minimum,
    "max.u": np.maximum,
    "min.s": lambda a, b: np.minimum(signed(a), signed(b)),
    "max.s": lambda a, b: np.maximum(signed(a), signed(b)),
}


# min and max of 16 bits no kernel has, and so neither has the machine.
BINARY_BITS = [
    (name, bits)
    for name in BINARY
    for bits in (16, 32, 64)
    if bits > 16 or not name.startswith(("min", "max"))
]


@pytest.mark.parametrize(("name", "bits"), BINARY_BITS)
def test_binary(name, bits):
    a, b, kind = words(bits), words(bits, 5), f"b{bits}"
    found = integers(f"{name}{bits} {{0}}, {{1}}, {{2}}", kind, (kind, a), (kind, b))
    np.testing.assert_array_equal(found, BINARY[name](a, b).view(found.dtype))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("sign", ["u", "s"])
def test_high_product_quotient_and_remainder(sign, bits):
    a, b, kind = words(bits), np.maximum(words(bits, 5), 1), f"b{bits}"
    wide = [int(x) for x in (signed(a) if sign == "s" else a)]
    by = [int(x) for x in (signed(b) if sign == "s" else b)]
    trunc = [abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) for x, y in zip(wide, by)]  # noqa: B905
    wanted = {
        "mul.hi": [x * y >> bits for x, y in zip(wide, by, strict=True)],
        "div": trunc,
        "rem": [x - y * q for x, y, q in zip(wide, by, trunc, strict=True)],
    }
    for name, values in wanted.items():
        found = integers(f"{name}.{sign}{bits} {{0}}, {{1}}, {{2}}", kind, (kind, a), (kind, b))
        assert found.tolist() == [value % 2**bits for value in values], name


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("sign", ["u", "s"])
def test_wide_products(sign, bits):
    a, b, c, kind, wide = (
        words(bits),
        words(bits, 5),
        words(2 * bits, 9),
        f"b{bits}",
        f"b{2 * bits}",
    )
    factors = [(signed(x) if sign == "s" else x).astype(f"int{2 * bits}") for x in (a, b)]
    product = (factors[0] * factors[1]).view(c.dtype)
    kinds = ((kind, a), (kind, b))
    found = integers(f"mul.wide.{sign}{bits} {{0}}, {{1}}, {{2}}", wide, *kinds)
    np.testing.assert_array_equal(found, product)
    code = f"mad.wide.{sign}{bits} {{0}}, {{1}}, {{2}}, {{3}}"
    np.testing.assert_array_equal(integers(code, wide, *kinds, (wide, c)), product + c)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts_by_more_than_there_is(bits):
    a, kind = words(bits), f"b{bits}"
    n = np.resize(np.array([0, 1, 5, bits - 1, bits, bits + 1, 255], np.uint32), N)
    inputs = (kind, a), ("b32", n)
    for name, fold in {
        "shl.b": lambda x, k: x << k,
        "shr.u": lambda x, k: x >> k,
        "shr.s": lambda x, k: (x - 2**bits * (x >> (bits - 1))) >> k,
    }.items():
        found = integers(f"{name}{bits} {{0}}, {{1}}, {{2}}", kind, *inputs)
        wanted = [fold(int(x), int(k)) % 2**bits for x, k in zip(a, n, strict=True)]
        assert found.tolist() == wanted, name


def test_bits_by_name():
    a, b, c = words(32), words(32, 5), words(32, 7)
    three = ("b32", a), ("b32", b), ("b32", c)
    found = integers("lop3.b32 {0}, {1}, {2}, {3}, 0xCA", "b32", *three)
    np.testing.assert_array_equal(found, (a & b) | (~a & c))
    found = integers("prmt.b32 {0}, {1}, {2}, 0x6240", "b32", *three[:2])
    np.testing.assert_array_equal(
        found, a & 0xFF | (b & 0xFF) << 8 | (a >> 16 & 0xFF) << 16 | (b >> 16 & 0xFF) << 24
    )
    found = integers("prmt.b32 {0}, {1}, {1}, 0xBBBB", "b32", three[0])  # the top byte's sign
    np.testing.assert_array_equal(found, np.where(a >> 31, 0xFFFFFFFF, 0).astype(np.uint32))
    found = integers("shf.l.wrap.b32 {0}, {1}, {2}, 7", "b32", *three[:2])
    np.testing.assert_array_equal(found, b << 7 | a >> 25)
    found = integers("shf.r.wrap.b32 {0}, {1}, {2}, 7", "b32", *three[:2])
    np.testing.assert_array_equal(found, b << 25 | a >> 7)
    found = integers("bfe.u32 {0}, {1}, 5, 9", "b32", three[0])
    np.testing.assert_array_equal(found, a >> 5 & 511)
    found = integers("bfe.s32 {0}, {1}, 5, 9", "b32", three[0])
    np.testing.assert_array_equal(signed(found), signed(a) << 18 >> 23)
    found = integers("bfi.b32 {0}, {1}, {2}, 5, 9", "b32", *three[:2])
    np.testing.assert_array_equal(found, b & ~np.uint32(511 << 5) | (a & 511) << 5)
    for name, one in {
        "popc": lambda x: x.bit_count(),
        "clz": lambda x: 32 - x.bit_length(),
        "brev": lambda x: int(f"{x:032b}"[::-1], 2),
    }.items():
        found = integers(f"{name}.b32 {{0}}, {{1}}", "b32", three[0])
        assert found.tolist() == [one(int(x)) for x in a], name


def test_packing_and_unpacking():
    a, b = words(32), words(32, 5)
    found = integers("mov.b64 {0}, {{ {1}, {2} }}", "b64", ("b32", a), ("b32", b))
    np.testing.assert_array_equal(found, a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32))
    halves = "mov.b32 {{ %h0, %h1 }}, {1}; mov.b32 {0}, {{ %h1, %h0 }}"
    np.testing.assert_array_equal(integers(halves, "b32", ("b32", a)), a << 16 | a >> 16)
    quarters = "mov.b64 {{ %h0, %h1, %h2, %h3 }}, {1}; mov.b64 {0}, {{ %h3, %h2, %h1, %h0 }}"
    wide = words(64)
    found = integers(quarters, "b64", ("b64", wide)).view(np.uint16).reshape(N, 4)
    np.testing.assert_array_equal(found[:, ::-1], wide.view(np.uint16).reshape(N, 4))


# --- between lanes ---


def lanes(code: str) -> np.ndarray:
    """[lane] of {0}, where {1} is 100 + lane; warp 0 of 4."""
    return integers(code, "b32", ("b32", np.resize(np.arange(32, dtype=np.uint32) + 100, 128)))[:32]


def test_shuffles():
    lane = np.arange(32)
    last = lambda found: np.where((found >= 0) & (found < 32), found, lane) + 100  # noqa: E731
    for name, by, clamp, wanted in (
        ("bfly", 5, 31, lane ^ 5),
        ("down", 3, 31, lane + 3),
        ("up", 3, 0, lane - 3),
        ("idx", 7, 31, lane * 0 + 7),
    ):
        found = lanes(f"shfl.sync.{name}.b32 {{0}}, {{1}}, {by}, {clamp}, -1")
        np.testing.assert_array_equal(found, last(wanted), name)
    # In segments of 8: nothing crosses them, and the predicate says whose source was inside.
    code = "shfl.sync.down.b32 {0}|%q0, {1}, 3, 0x1807, -1; @!%q0 mov.u32 {0}, 0"
    np.testing.assert_array_equal(lanes(code), np.where(lane % 8 + 3 < 8, lane + 103, 0))


def test_votes_and_reductions():
    lane = np.arange(32) + 100
    odd = "and.b32 %r9, {1}, 1; setp.ne.u32 %q0, %r9, 0; "
    assert set(lanes(odd + "vote.sync.ballot.b32 {0}, %q0, -1")) == {0xAAAAAAAA}
    assert set(lanes(odd + "vote.sync.any.pred %q1, %q0, -1; selp.u32 {0}, 1, 0, %q1")) == {1}
    assert set(lanes(odd + "vote.sync.all.pred %q1, %q0, -1; selp.u32 {0}, 1, 0, %q1")) == {0}
    assert set(lanes("redux.sync.add.s32 {0}, {1}, -1")) == {lane.sum()}
    assert set(lanes("redux.sync.max.u32 {0}, {1}, -1")) == {131}
    # Lanes that part and meet again.
    parted = (
        odd
        + "@%q0 bra ODD; mov.u32 {0}, 1; bra DONE; ODD: mov.u32 {0}, 2; DONE: add.s32 {0}, {0}, 10"
    )
    np.testing.assert_array_equal(lanes(parted), 11 + lane % 2)


# --- memory ---


def test_atomics_lose_nothing():
    total, seen = torch.zeros(1, dtype=torch.int32), torch.zeros(256, dtype=torch.int32)
    code = """mul.wide.u32 %at1, %n, 4; add.s64 %at1, %at1, %p1;
    atom.global.gpu.relaxed.add.u32 %r0, [%p0], 1; st.global.u32 [%at1], %r0;"""
    launch(code, total, seen, grid=2)
    assert total.item() == 256
    assert sorted(seen.tolist()) == list(range(256))
    largest = torch.tensor([-7], dtype=torch.int32)
    launch(
        "cvt.s64.s32 %d0, %t; cvt.u32.u64 %r0, %d0; red.global.gpu.relaxed.max.s32 [%p0], %r0;",
        largest,
    )
    assert largest.item() == 127


def test_vectors_and_extension():
    x = torch_of(words(32)[:512])
    out = torch.zeros_like(x)
    code = """mul.wide.u32 %at0, %n, 16; add.s64 %at1, %at0, %p1; add.s64 %at0, %at0, %p0;
    ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%at0];
    st.global.v4.b32 [%at1], {%r3, %r2, %r1, %r0};"""
    launch(code, x, out)
    assert torch.equal(out.reshape(-1, 4).flip(1).flatten(), x)
    bytes = torch.arange(128, dtype=torch.uint8) + 100
    wide = torch.zeros(128, dtype=torch.int32)
    launch(
        """cvt.u64.u32 %at0, %n; add.s64 %at0, %at0, %p0; mul.wide.u32 %at1, %n, 4;
    add.s64 %at1, %at1, %p1; ld.global.s8 %r0, [%at0]; st.global.b32 [%at1], %r0;""",
        bytes,
        wide,
    )
    assert torch.equal(wide, bytes.view(torch.int8).int())


def test_local_memory_is_a_lanes_own():
    """An array on the stack: where registers do not suffice, or an index is not known."""
    out = torch.zeros(128, dtype=torch.int32)
    code = """.local .align 8 .b8 __local_depot0[16];
    .reg .b64 %SP, %SPL;
    mov.u64 %SPL, __local_depot0; cvta.local.u64 %SP, %SPL;
    st.local.b32 [%SPL+4], %t; st.local.b32 [%SPL], 7;
    mul.wide.u32 %at0, %n, 4; add.s64 %at0, %at0, %p0;
    ld.local.v2.b32 {%r0, %r1}, [%SPL]; add.s32 %r0, %r0, %r1; st.global.b32 [%at0], %r0;"""
    report = launch(code, out)
    assert not report.findings, str(report)
    assert torch.equal(out, torch.arange(128, dtype=torch.int32) + 7)
    unwritten = launch(code.replace("st.local.b32 [%SPL], 7;", ""), out)
    assert {finding.kind for finding in unwritten.findings} == {"uninitialised read"}
    beyond = launch(code.replace("[%SPL+4]", "[%SPL+16]"), out)
    assert "local memory has 16 bytes" in str(beyond)


@pytest.mark.parametrize("lazy", [0, 1, 2])
def test_asynchronous_copies(lazy):
    x = torch.arange(512, dtype=torch.int32)
    out = torch.zeros_like(x)
    code = """mul.wide.u32 %at0, %t, 16; add.s64 %at1, %at0, %p1; add.s64 %at0, %at0, %p0;
    shl.b32 %r0, %t, 4; add.s32 %r0, %r0, %base; mov.u32 %r1, 8;
    cp.async.cg.shared.global [%r0], [%at0], 16, %r1;
    cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
    xor.b32 %r0, %r0, 16;  // a neighbour's
    ld.shared.v4.b32 {%r2, %r3, %r4, %r5}, [%r0]; st.global.v4.b32 [%at1], {%r2, %r3, %r4, %r5};"""
    for seed in range(5):
        report = launch(code, x, out, seed=seed, schedule=replace(STRICT, lazy=lazy))
        assert not report.findings, str(report)
        wanted = x.reshape(-1, 2, 4).flip(1).reshape(-1, 4).clone()
        wanted[:, 2:] = 0  # 8 of 16 bytes are read
        assert torch.equal(out.reshape(-1, 4), wanted)
    early = launch(code.replace("wait_group 0", "wait_group 1"), x, out,
                   schedule=replace(STRICT, lazy=2))  # fmt: skip
    assert "uninitialised read" in str(early)


# --- what is not known ---


@pytest.mark.parametrize(
    "text", ["cos.approx.f32 %f0, %f1", "ld.b32 %r0, [%p0]", "mbarrier.init.shared.b64 [%r0], 1"]
)
def test_an_unknown_instruction_is_named(text):
    with pytest.raises(Unsupported, match=text.split()[0].replace(".", r"\.")):
        launch(text + ";", torch.zeros(1))


def test_ptx_without_a_kernel():
    with pytest.raises(Unsupported, match="entry"):
        Program(".version 8.0")
