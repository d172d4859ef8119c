"""Compiles every GPU kernel to machine code for GPUs that need not be here; prints how many multiply-adds each fuses.

    python -m tests.compiled_kernels [compute capability, 90 by default] [--fuse]

--fuse allows what the kernels are launched without, in those that both multiply and add.
"""

import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mpisign.bits.cuda import deciding, moving, packing, tiles
from mpisign.bits.cuda.common import WORDS

F, W, L = "*fp32", "*i32", "*i64"
DRAW = dict.fromkeys(("step", "voter", "stream", "k0", "k1"), "i64")
PACK = {"v": F, "v_row": "i64", "planes": W, "plane": "i64", "plane_row": "i64", "valid": W, "segments": W}
ENDS = {"noted": L, "items": "i64", "words": "i64", "first": "i64"}
NUMBERS = {"WORDS": WORDS.value}


def forms():
    """Each kernel with the types of its arguments, and the forms in which it is used."""
    signs = PACK | {"scales": F} | ENDS | DRAW
    for rule, scaled in ((0, False), (1, False), (2, False), (0, True), (2, True)):
        yield packing._signs, signs, {"RULE": rule, "NEGATE": rule == 0, "SCALED": scaled} | NUMBERS
    for each, two in ((False, False), (True, True)):
        yield packing._stochastic, PACK | {"radii": F} | ENDS | DRAW, {"EACH": each, "TWO": two} | NUMBERS
    count = {"ballots": W, "ballot": "i64", "planes": W, "plane": "i64", "voters": "i32", "words": "i64"}
    yield deciding._count, count, {"PLANES": 4} | NUMBERS
    yield deciding._count_weighted, count | {"weights": "*i32"}, {"PLANES": 4} | NUMBERS
    vote = {"plus": W, "plus_plane": "i64", "minus": W, "minus_plane": "i64", "verdict": W, "verdict_plane": "i64"}
    vote |= {"sums": L, "voters": "i32", "words": "i64", "first": "i64"} | DRAW
    for rule, abstain in ((0, False), (2, True)):
        yield deciding._majority, vote, {"PLANES": 3, "ABSTENTIONS": abstain, "RULE": rule, "NEGATE": False} | NUMBERS
    sizes = {"items": "i64", "words": "i64"}
    apply = {"x": F, "planes": W, "plane": "i64", "valid": W, "segments": W, "tables": F, "decays": F} | sizes
    for planes in (1, 3):
        yield moving._apply, apply, {"PLANES": planes} | NUMBERS
    yield moving._blend, {"y": F, "x": F, "a": "fp32", "b": "fp32", "items": "i64"}, {"BLOCK": moving.BLOCK}
    levels = {"total": F, "planes": W, "plane": "i64", "table": F} | sizes
    yield moving._add_levels, levels, {"PLANES": 2} | NUMBERS
    signed = {"total": F, "planes": W, "plane": "i64", "scale": "fp32"} | sizes
    yield moving._add_signed, signed, {"TWO": True} | NUMBERS
    rounded = {"v": F, "out": "*i16", "items": "i64", "first": "i64"} | DRAW
    yield moving._round, rounded, {"BLOCK": 512}
    yield moving._drawn, {"out": L, "first": "i64", "blocks": "i64"} | DRAW, {"BLOCK": 1024}
    over = {"y": F, "x": F, "factors": F, "tiles": L, "count": "i32", "out": "*fp64", "longest": "i32"}
    for kind, add in ((0, False), (1, False), (2, False), (0, True)):
        yield tiles._over_tiles, over, {"KIND": kind, "ADD": add, "ROWS": tiles.ROWS}


def main(capability: int, fuse: bool) -> None:
    for kernel, types, numbers in forms():
        if fuse and kernel not in (moving._apply, moving._blend):
            continue
        source = ASTSource(kernel, types | dict.fromkeys(numbers, "constexpr"), numbers)
        target = GPUTarget("cuda", capability, 32)
        machine_code = triton.compile(source, target=target, options={"enable_fp_fusion": fuse}).asm["sass"]
        instructions = re.findall(r"^\S+\t(?:@\S+ )?([A-Z][A-Z0-9]*)", machine_code, re.MULTILINE)
        fused = sum(name in ("FFMA", "DFMA") for name in instructions)
        print(f"{kernel.fn.__name__} {numbers}: {len(instructions)} instructions, {fused} fused")


if __name__ == "__main__":
    numbers = [int(given) for given in sys.argv[1:] if given != "--fuse"]
    main(numbers[0] if numbers else 90, "--fuse" in sys.argv)
