"""The machine that runs what compilers for GPUs make: what instructions do, and that it sees what a GPU must not be given."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from assembling import assemble, emulated
from ptx import Machine
from ptx_memory import Fault

from equinet.ops.codegen.tiles import Kernel
from equinet.ops.kernels.edge import gpu as edge_gpu

pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def written(*lines: str, integers: Sequence[str] = (), numbers: Sequence[str] = ("x", "out"), warps: int = 1) -> Kernel:
    kinds = dict.fromkeys(integers, "integers") | dict.fromkeys(numbers, "numbers")
    return Kernel("probe", kinds, torch.float32, "\n".join(f"    {line}" for line in lines), warps=warps)  # type: ignore[arg-type]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("warps", [1, 4])
@pytest.mark.parametrize("some", [64, 16], ids=["at once", "in a loop"])
@pytest.mark.parametrize(
    ("way", "least", "most"),
    [
        ("input_precision='tf32'", 1e-4, 2e-3),
        ("input_precision='tf32x3'", 0, 1e-6),
        ("input_precision='ieee'", 0, 1e-6),
        ("input_precision='bf16x3'", 0, 1e-4),
        ("float64", 0, 1e-7),
        ("bfloat16", 1e-3, 2e-2),
        ("bfloat16 in memory", 1e-3, 2e-2),
    ],
)
def test_products_of_matrices(way: str, least: float, most: float, some: int, warps: int, capability: int) -> None:
    a, b, out = torch.randn(16, 64), torch.randn(64, 32), torch.empty(16, 32)
    expected = a.double() @ b.double()
    options = f", {way}" if "=" in way else ""
    to = "" if options or "memory" in way else f".to(tl.{way})"
    if "memory" in way:  # numbers of 16 bits side by side
        a, b = a.bfloat16().view(torch.float32), b.bfloat16().view(torch.float32)
    pointer = ".to(tl.pointer_type(tl.bfloat16))" if "memory" in way else ""
    with emulated(capability):
        kernel = written(
            "m, n = tl.arange(0, 16)[:, None], tl.arange(0, 32)[None, :]",
            f"total = tl.zeros([16, 32], dtype={'tl.float64' if way == 'float64' else 'number'})",
            f"for start in range(0, 64, {some}):",
            f"    k = start + tl.arange(0, {some})",
            f"    left = tl.load(x{pointer} + m * 64 + k[None, :])",
            f"    right = tl.load(y{pointer} + k[:, None] * 32 + n)",
            f"    total += tl.dot(left{to}, right{to}{options})",
            "tl.store(out + m * 32 + n, total.to(number))",
            numbers=("x", "y", "out"),
            warps=warps,
        )
        kernel((1,), a, b, out)
    assert least <= float((out - expected).norm() / expected.norm()) <= most


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("tl.store(out + tl.arange(0, 32), tl.load(x + tl.arange(0, 32)))", "ld.global.* is beside the arrays"),
        ("tl.store(out + 8 + tl.arange(0, 32), 1.0)", "st.global.* is beside the arrays"),
        ("tl.store(out, tl.program_id(0).to(number))", "gets different numbers"),
        ("tl.store(out + tl.program_id(0), tl.load(out + 1 - tl.program_id(0)))", "by one warp, but .* by another"),
    ],
)
def test_what_a_gpu_must_not_be_given(line: str, fault: str) -> None:
    with emulated(90), pytest.raises(Fault, match=f"probe: .*{fault}"):
        written(line)((2,), torch.ones(20), torch.ones(32))


ONE = """
.visible .entry one(.param .u64 one_param_0, .param .u32 one_param_1) .reqntid 32
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.b64 %rd0, [one_param_0];
    ld.param.b32 %r0, [one_param_1];
    INSTRUCTIONS;
    st.global.b32 [%rd0], %r1;
    ret;
}
"""


@pytest.mark.parametrize(
    ("instructions", "given", "expected"),
    [
        ("shl.b32 %r1, %r0, 32;", 5, 0),
        ("shr.u32 %r1, %r0, 31;", 0x80000000, 1),
        ("shr.s32 %r1, %r0, 40;", 0x80000000, 0xFFFFFFFF),
        ("bfe.u32 %r1, %r0, 4, 4;", 0xF0, 0xF),
        ("bfe.s32 %r1, %r0, 4, 4;", 0xF0, 0xFFFFFFFF),
        ("div.s32 %r1, %r0, 2;", -7, 0xFFFFFFFD),
        ("min.s32 %r1, %r0, 1;", -7, 0xFFFFFFF9),
        ("min.u32 %r1, %r0, 1;", -7, 1),
        ("min.f32 %r1, %r0, 0f3F800000;", 0x7FC00000, 0x3F800000),  # what is a number, of the two
        ("mul.hi.u32 %r1, %r0, %r0;", -1, 0xFFFFFFFE),
        ("mul.hi.s32 %r1, %r0, 0x40000000;", -5, 0xFFFFFFFE),
        ("cvt.s64.s32 %rd1, %r0; mul.hi.s64 %rd1, %rd1, 0x4000000000000000; cvt.u32.u64 %r1, %rd1;", -5, 0xFFFFFFFE),
        ("cvt.s64.s32 %rd1, %r0; mul.hi.u64 %rd1, %rd1, %rd1; cvt.u32.u64 %r1, %rd1;", -1, 0xFFFFFFFE),
        ("ld.param.s32 %rd1, [one_param_1]; mov.b64 {_, %r1}, %rd1;", -1, 0xFFFFFFFF),
        ("mov.b64 %rd1, {%r0, 7}; mov.b64 {_, %r1}, %rd1;", 5, 7),
        ("cvt.rna.tf32.f32 %r1, %r0;", 0x3F801000, 0x3F802000),
        ("cvt.rn.bf16x2.f32 %r1, %r0, 0f3F800000;", 0x3F808000, 0x3F803F80),
        ("cvt.rn.bf16x2.f32 %r1, %r0, 0f3F800000;", 0x3F818000, 0x3F823F80),
        ("{ .reg .pred p; setp.ne.f32 p, %r0, 0f00000000; selp.b32 %r1, 1, 2, p; }", 0x7FC00000, 2),
        ("{ .reg .pred p; setp.neu.f32 p, %r0, 0f00000000; selp.b32 %r1, 1, 2, p; }", 0x7FC00000, 1),
        ("{ .reg .pred p; setp.lt.u32 p, %r0, 9; mov.b32 %r1, 3; @!p mov.b32 %r1, 4; }", 9, 4),
    ],
)
def test_one_instruction(instructions: str, given: int, expected: int) -> None:
    out = np.zeros(1, np.uint32)
    Machine(ONE.replace("INSTRUCTIONS;", instructions), (1,), [out, given], 0).run()
    assert hex(out[0]) == hex(expected)


def sums_of_rows(ptx: Callable[[str], str]) -> float:
    """How far the sums of rows, by programs of four warps, are from what they should be when the assembly is changed."""
    values = np.random.default_rng(0).normal(size=(7, 128)).astype(np.float32)
    pointers, rows, out = np.array([0, 3, 3, 7]), np.arange(7)[::-1].copy(), np.full((3, 128), np.nan, np.float32)
    kernel, tile = edge_gpu.gather_sum(128, torch.float32)
    made = assemble(kernel, 90)
    changed = ptx(made.ptx)
    Machine(changed, (3, 128 // tile.channels), [pointers, rows, values, out], made.shared).run()
    return float(np.abs(out - [values[4:].sum(0), values[3:3].sum(0), values[:4].sum(0)]).max())


def test_a_missing_barrier_is_seen() -> None:
    assert sums_of_rows(lambda ptx: ptx) < 1e-5
    with pytest.raises(Fault, match="is read by one warp, but written by another"):
        sums_of_rows(lambda ptx: ptx.replace("bar.sync", "bar.warp.sync"))


def test_another_distance_of_a_shuffle_gives_other_numbers() -> None:
    assert not sums_of_rows(lambda ptx: ptx.replace(", 2, 31, -1;", ", 8, 31, -1;")) < 1e-2


def test_a_lost_mask_is_seen() -> None:
    with pytest.raises(Fault, match=r"ld.global.* is beside the arrays"):
        sums_of_rows(lambda ptx: ptx.replace("setp.lt.s64", "setp.ne.s64"))


BRANCHING = """
.visible .entry branching(.param .u64 branching_param_0) .reqntid 64
{
    .reg .pred %p<1>;
    .reg .b32 %r<2>;
    .reg .b64 %rd<1>;
    ld.param.b64 %rd0, [branching_param_0];
    mov.u32 %r0, %tid.x;
    mad.wide.u32 %rd0, %r0, 4, %rd0;
    mov.b32 %r1, 0;
$again:
    setp.ge.u32 %p0, %r1, %r0;
    @%p0 bra $there;
    add.s32 %r1, %r1, 2;
    bra.uni $again;
$there:
    st.global.b32 [%rd0], %r1;
    ret;
}
"""


def test_threads_may_leave_a_loop_one_after_the_other() -> None:
    out = np.zeros(64, np.int32)
    Machine(BRANCHING, (2,), [out], 0).run()
    assert out.tolist() == [(n + 1) // 2 * 2 for n in range(64)]


@pytest.mark.parametrize("instruction", ["bar.sync 0", "shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1"])
def test_threads_must_come_to_a_barrier_together(instruction: str) -> None:
    with pytest.raises(Fault, match=f"branching: {instruction}: threads of a program do not come here together"):
        Machine(BRANCHING.replace("add.s32", f"{instruction}; add.s32"), (1,), [np.zeros(64, np.int32)], 0).run()


def test_an_instruction_that_is_not_known_is_named() -> None:
    for instruction in ("sin.approx.f32 %r1, %r0", "mov.u32 %r1, %clock", "st.param.b64 [param0], %rd0"):
        with pytest.raises(Fault, match=f"branching: {re.escape(instruction)}: .* not known|is no register"):
            Machine(BRANCHING.replace("mov.b32 %r1, 0", instruction), (1,), [np.zeros(64, np.int32)], 0).run()
