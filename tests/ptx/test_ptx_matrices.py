"""The PTX machine's tensor cores: fragments, descriptors and swizzles against a plain product."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ptx import build
from ptx.by_hand import launch
from ptx.run import STRICT, WEAK
from tolerance import FEW_TERMS, near

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}


def copy_in(bytes: int) -> str:
    """128 threads copy p0 to shared memory, 16 bytes each at a time."""
    code = ["mul.wide.u32 %at0, %t, 16; add.s64 %at0, %at0, %p0; shl.b32 %r0, %t, 4;",
            "add.s32 %r0, %r0, %base;"]  # fmt: skip
    for at in range(0, bytes, 2048):
        code.append(f"ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%at0+{at}];")
        code.append(f"st.shared.v4.b32 [%r0+{at}], {{%r1, %r2, %r3, %r4}};")
    return "\n".join([*code, "fence.proxy.async.shared::cta;", "bar.sync 0;"])


def registers(pointer: int, names: list[str], access: str) -> str:
    """Each thread's row of p<pointer> [threads, names], loaded or stored."""
    code = [f"mul.wide.u32 %at9, %t, {4 * len(names)}; add.s64 %at9, %at9, %p{pointer};"]
    for index, name in enumerate(names):
        pair = (name, f"[%at9+{4 * index}]")
        first, second = pair if access == "ld" else pair[::-1]
        code.append(f"{access}.global.b32 {first}, {second};")
    return "\n".join(code)


def rounded(shape: tuple[int, ...], kind: str, seed: int) -> Tensor:
    """A matrix as a tensor core reads it: TF32 has 13 bits less than float32."""
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(TYPES[kind])
    return (made.view(torch.int32) & -8192).view(torch.float32) if kind == "tf32" else made


def assert_is_product(found: Tensor, a: Tensor, b: Tensor, c: Tensor | float = 0.0) -> None:
    """Summed in double and rounded once."""
    torch.testing.assert_close(found, (a.double() @ b.double() + c).float(), rtol=0, atol=0)


# --- ldmatrix, stmatrix ---


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_and_stmatrix_are_each_others_inverse(count, trans):
    matrices = torch.arange(count * 64, dtype=torch.int16).reshape(count, 8, 8)
    memory = torch.zeros(1024, dtype=torch.int16)
    memory[: count * 64] = matrices.flatten()
    names = [f"%r{10 + q}" for q in range(count)]
    lane_address = (
        f"and.b32 %r5, %t, {8 * count - 1}; shl.b32 %r5, %r5, 4; add.s32 %r5, %r5, %base;"
    )
    load = f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{', '.join(names)}}}, [%r5];"
    out = torch.zeros(128, count, dtype=torch.int32)
    report = launch(copy_in(2048) + lane_address + load + registers(1, names, "st"), memory, out)
    assert not report.findings, str(report)
    rows = matrices.transpose(1, 2) if trans else matrices
    found = out[:32].view(torch.int16).reshape(8, 4, count, 2)  # row, pair of columns, matrix
    assert torch.equal(found.permute(2, 0, 1, 3).reshape(count, 8, 8), rows)
    # And back, by one warp, to where the other matrices end.
    store = (
        f"stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r5+1024], {{{', '.join(names)}}};"
    )
    back = "ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r5+1024];" + registers(
        0, ["%r1", "%r2", "%r3", "%r4"], "st"
    )
    copied = torch.zeros(32, 4, dtype=torch.int32)
    launch(lane_address + registers(1, names, "ld") + store + "bar.sync 0;" + back,
           copied, out[:32].contiguous(), threads=32)  # fmt: skip
    found = copied[: 8 * count].view(torch.int16).reshape(count, 8, 8)
    assert torch.equal(found, matrices)


@pytest.mark.parametrize("value", ["%base", "%t"], ids=["equal", "own"])
def test_warps_that_store_one_matrix_must_store_the_same(value):
    """As Triton's do where warps have computed one tile: harmless, while the values are equal."""
    address = "and.b32 %r5, %t, 7; shl.b32 %r5, %r5, 4; add.s32 %r5, %r5, %base;"
    store = f"mov.b32 %r1, {value}; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r5], {{%r1}};"
    report = launch(address + store, torch.zeros(1))
    assert bool(report.findings) == (value == "%t"), str(report)


# --- mma: where PTX's tables put a lane's elements; g: lane / 4, t: lane % 4 ---


def pairs(values: Tensor) -> Tensor:
    """[..., 2] halves -> [...] words of 32 bits."""
    return values.contiguous().view(torch.int32).squeeze(-1)


def mma_operands(kind: str, K: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A lane's registers of a [16, K] and b [K, 8]."""
    g, t = torch.arange(32) // 4, torch.arange(32) % 4
    if kind == "tf32":
        left = [a[g + 8 * (q % 2), t + 4 * (q // 2)] for q in range(K // 2)]
        right = [b[t + 4 * q, g] for q in range(K // 4)]
        return tuple(torch.stack(x, 1).contiguous().view(torch.int32) for x in (left, right))
    two = torch.arange(2)
    columns = lambda q: (2 * t + 8 * q)[:, None] + two  # noqa: E731
    left = [pairs(a[(g + 8 * (q % 2))[:, None], columns(q // 2)]) for q in range(K // 4)]
    right = [pairs(b[columns(q), g[:, None]]) for q in range(K // 8)]
    return torch.stack(left, 1), torch.stack(right, 1)


@pytest.mark.parametrize(("kind", "K"), [("f16", 8), ("f16", 16), ("bf16", 8), ("bf16", 16),
                                         ("tf32", 4), ("tf32", 8)])  # fmt: skip
def test_mma(kind, K):
    a, b, c = rounded((16, K), kind, 0), rounded((K, 8), kind, 1), rounded((16, 8), "tf32", 2)
    g, t = torch.arange(32) // 4, torch.arange(32) % 4
    left, right = mma_operands(kind, K, a, b)
    c_of_lane = torch.stack([c[g + 8 * (q // 2), 2 * t + q % 2] for q in range(4)], 1)
    names = {x: [f"%r{k + 10 * n}" for n in range(count)] for x, k, count in
             (("a", 1, left.shape[1]), ("b", 2, right.shape[1]))}  # fmt: skip
    sums = [f"%f{q}" for q in range(4)]
    braces = lambda regs: "{" + ", ".join(regs) + "}"  # noqa: E731
    code = "\n".join([
        registers(0, names["a"], "ld"), registers(1, names["b"], "ld"), registers(2, sums, "ld"),
        f"mma.sync.aligned.m16n8k{K}.row.col.f32.{kind}.{kind}.f32 {braces(sums)},"
        f" {braces(names['a'])}, {braces(names['b'])}, {braces(sums)};",
        registers(2, sums, "st"),
    ])  # fmt: skip
    launch(code, left, right, c_of_lane, threads=32)
    found = torch.zeros(16, 8)
    for q in range(4):
        found[g + 8 * (q // 2), 2 * t + q % 2] = c_of_lane[:, q]
    assert_is_product(found, a, b, c)


def test_mma_in_double():
    a, b, c = (torch.randn(*shape, dtype=torch.float64) for shape in ((8, 4), (4, 8), (8, 8)))
    g, t = torch.arange(32) // 4, torch.arange(32) % 4
    lanes = torch.stack([a[g, t], b[t, g], c[g, 2 * t], c[g, 2 * t + 1]], 1).contiguous()
    code = """mul.wide.u32 %at0, %t, 32; add.s64 %at0, %at0, %p0;
    ld.global.v2.b64 {%d0, %d1}, [%at0]; ld.global.v2.b64 {%d2, %d3}, [%at0+16];
    mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d2, %d3}, {%d0}, {%d1}, {%d2, %d3};
    st.global.v2.b64 [%at0+16], {%d2, %d3};"""
    launch(code, lanes, threads=32)
    found = torch.stack([lanes[:, 2], lanes[:, 3]], 1).reshape(8, 8)
    torch.testing.assert_close(found, a @ b + c, **near(FEW_TERMS))


@pytest.mark.parametrize("K", [4, 8, 16])
def test_larger_mma_in_double(K):
    """sm_90's shapes, which Triton 3.6 takes: fragments are those of TF32."""
    a, b, c = (torch.randn(*shape, dtype=torch.float64) for shape in ((16, K), (K, 8), (16, 8)))
    g, t = torch.arange(32) // 4, torch.arange(32) % 4
    left = [a[g + 8 * (q % 2), t + 4 * (q // 2)] for q in range(K // 2)]
    right = [b[t + 4 * q, g] for q in range(K // 4)]
    sums = [c[g + 8 * (q // 2), 2 * t + q % 2] for q in range(4)]
    lanes = torch.stack([*left, *right, *sums], 1).contiguous()
    names = [f"%d{k}" for k in range(lanes.shape[1])]
    groups = names[: K // 2], names[K // 2 : K // 2 + K // 4], names[-4:]
    a_regs, b_regs, c_regs = ("{" + ", ".join(group) + "}" for group in groups)
    code = [f"mul.wide.u32 %at0, %t, {8 * len(names)}; add.s64 %at0, %at0, %p0;"]
    code += [f"ld.global.b64 {name}, [%at0+{8 * k}];" for k, name in enumerate(names)]
    code += [f"mma.sync.aligned.m16n8k{K}.row.col.f64.f64.f64.f64 {c_regs}, {a_regs}, {b_regs},"
             f" {c_regs};"]  # fmt: skip
    code += [f"st.global.b64 [%at0+{8 * k}], {name};" for k, name in enumerate(names)]
    launch("\n".join(code), lanes, threads=32)
    found = torch.zeros(16, 8, dtype=torch.float64)
    for q in range(4):
        found[g + 8 * (q // 2), 2 * t + q % 2] = lanes[:, q - 4]
    torch.testing.assert_close(found, a @ b + c, **near(FEW_TERMS))


# --- wgmma: operands in shared memory ---

WIDTHS = {1: 128, 2: 64, 3: 32}  # bytes of a row that a swizzle repeats over


def chunk(row: int, chunks: int, swizzle: int) -> int:
    """Where a row's 16-byte piece lies: PTX ISA's pictures of the swizzles."""
    return chunks ^ {1: row % 8, 2: row // 2 % 4, 3: row // 4 % 2}[swizzle]


def lay_out(rows: Tensor, swizzle: int) -> tuple[np.ndarray, int]:
    """A matrix [rows, K] whose rows are contiguous -> shared memory and its descriptor (from 0)."""
    size = rows.element_size()
    data = rows.contiguous().view(torch.uint8).reshape(len(rows), -1, 16).numpy()
    count = data.shape[1]  # pieces of 16 bytes
    if not swizzle:  # core matrices of 8 rows, those along K first
        memory = data.reshape(-1, 8, count, 16).transpose(0, 2, 1, 3).reshape(-1)
        return memory.copy(), 128 >> 4 << 16 | (128 * count) >> 4 << 32
    width = WIDTHS[swizzle]
    memory = np.zeros((len(rows), width // 16, 16), np.uint8)
    for row in range(len(rows)):
        for piece in range(count):
            memory[row, chunk(row, piece, swizzle)] = data[row, piece]
    assert count * 16 <= width, (count, size)
    return memory.reshape(-1), (8 * width) >> 4 << 32 | swizzle << 62


def lay_out_transposed(columns: Tensor) -> tuple[np.ndarray, int]:
    """A matrix [K, 64] of halves, rows of 64 contiguous: swizzle 1, transposed."""
    data = columns.contiguous().view(torch.uint8).reshape(len(columns), 8, 16).numpy()
    memory = np.zeros_like(data)
    for k in range(len(columns)):
        for piece in range(8):
            memory[k, piece ^ k % 8] = data[k, piece]
    return memory.reshape(-1), 1024 >> 4 << 32 | 1 << 62


def shared_image(*parts: np.ndarray) -> tuple[Tensor, list[int]]:
    """Parts at multiples of 1024 bytes, as swizzles want."""
    starts, end = [], 0
    for part in parts:
        starts.append(end)
        end += -(-len(part) // 1024) * 1024
    image = np.zeros(-(-end // 2048) * 2048, np.uint8)
    for part, at in zip(parts, starts, strict=True):
        image[at : at + len(part)] = part
    return torch.from_numpy(image), starts


def product_code(
    kind: str, N: int, a: str, descriptors: dict[str, int], scale: int, trans: str
) -> str:
    """One wgmma of m64, its fences and its wait. a: "%d0", or registers in braces."""
    sums = [f"%f{q}" for q in range(N // 2)]
    build = ["cvt.u64.u32 %d2, %base; shr.u64 %d2, %d2, 4;"]
    for name, bits in descriptors.items():
        build.append(f"add.s64 {name}, %d2, {bits};")
    K = 8 if kind == "tf32" else 16
    return "\n".join([
        *build, f"setp.ne.u32 %q0, {scale}, 0;", "wgmma.fence.sync.aligned;",
        f"wgmma.mma_async.sync.aligned.m64n{N}k{K}.f32.{kind}.{kind} {{{', '.join(sums)}}}, {a},"
        f" %d1, %q0, 1, 1{trans};",
        "wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0;",
        registers(1, sums, "st"),
    ])  # fmt: skip


def accumulators(lanes: Tensor, N: int) -> Tensor:
    """[128, N / 2] registers -> [64, N]."""
    found, thread = torch.zeros(64, N), torch.arange(128)
    for q in range(N // 2):
        row = thread // 32 * 16 + thread % 32 // 4 + q % 4 // 2 * 8
        found[row, q // 4 * 8 + thread % 4 * 2 + q % 2] = lanes[:, q]
    return found


@pytest.mark.parametrize("swizzle", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", TYPES)
def test_wgmma_in_every_layout(kind, swizzle):
    N, K = 24, 8 if kind == "tf32" else 16
    a, b = rounded((64, K), kind, 0), rounded((K, N), kind, 1)
    parts, bits = zip(lay_out(a, swizzle), lay_out(b.T, swizzle), strict=True)
    image, starts = shared_image(*parts)
    descriptors = {f"%d{k}": bits[k] + (starts[k] >> 4) for k in range(2)}
    trans = "" if kind == "tf32" else ", 0, 0"
    code = copy_in(len(image)) + product_code(kind, N, "%d0", descriptors, 0, trans)
    for lazy in (0, 1, 2):
        out = torch.full((128, N // 2), torch.nan)
        report = launch(code, image, out, schedule=replace(WEAK, lazy=lazy))
        assert not report.findings, str(report)
        assert_is_product(accumulators(out, N), a, b)


def test_wgmma_transposed_and_accumulated():
    a, b = rounded((64, 16), "bf16", 0), rounded((16, 64), "bf16", 1)
    parts, bits = zip(lay_out(a, 3), lay_out_transposed(b), strict=True)
    image, starts = shared_image(*parts)
    descriptors = {f"%d{k}": bits[k] + (starts[k] >> 4) for k in range(2)}
    out = torch.randn(128, 32)
    code = copy_in(len(image)) + registers(1, [f"%f{q}" for q in range(32)], "ld")
    before = accumulators(out, 64)
    report = launch(code + product_code("bf16", 64, "%d0", descriptors, 1, ", 0, 1"), image, out)
    assert not report.findings, str(report)
    assert_is_product(accumulators(out, 64), a, b, before.double())


@pytest.mark.parametrize("kind", TYPES)
def test_wgmma_with_a_in_registers(kind):
    N, K = 16, 8 if kind == "tf32" else 16
    a, b = rounded((64, K), kind, 0), rounded((K, N), kind, 1)
    part, bits = lay_out(b.T, 3)
    image, _ = shared_image(part)
    lanes = torch.cat([mma_operands(kind, K, rows, b[:, :8])[0] for rows in a.split(16)])
    names = [f"%r{10 + q}" for q in range(4)]
    out = torch.zeros(128, N // 2)
    trans = "" if kind == "tf32" else ", 0"
    code = copy_in(len(image)) + registers(2, names, "ld")
    code += product_code(kind, N, "{" + ", ".join(names) + "}", {"%d1": bits}, 0, trans)
    report = launch(code, image, out, lanes)
    assert not report.findings, str(report)
    assert_is_product(accumulators(out, N), a, b)


def test_what_wgmma_needs():
    """Each of its fences and waits is missed."""
    a, b = rounded((64, 16), "bf16", 0), rounded((16, 8), "bf16", 1)
    parts, bits = zip(lay_out(a, 1), lay_out(b.T, 1), strict=True)
    image, starts = shared_image(*parts)
    descriptors = {f"%d{k}": bits[k] + (starts[k] >> 4) for k in range(2)}
    code = copy_in(len(image)) + product_code("bf16", 8, "%d0", descriptors, 0, ", 0, 0")
    late = replace(STRICT, lazy=2)
    for removed, put, finding in (
        ("fence.proxy.async.shared::cta;", "", "not fenced from wgmma"),
        ("wgmma.fence.sync.aligned;", "", "without a wgmma.fence"),
        ("wait_group.sync.aligned 0", "wait_group.sync.aligned 1", "in flight is touched"),
        ("bar.sync 0;", "", "shared race: read after write"),
    ):
        assert removed in code
        report = launch(code.replace(removed, put), image, torch.zeros(128, 4), schedule=late)
        assert finding in str(report), f"{removed}: {report}"
