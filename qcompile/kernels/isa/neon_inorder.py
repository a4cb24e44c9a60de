"""AArch64 without the dot product, in order (Cortex-A53, A35): the instructions of ``neon``, fewer registers.

These cores run what the compiler schedules: LLVM needs spare registers to move loads and
multiplications apart, so the register tiles are smaller than the file would hold.
"""

from __future__ import annotations

from dataclasses import replace

from qcompile.kernels.depthwise_micro import FmaDepthwise
from qcompile.kernels.isa import Isa, neon

_FLOAT_TILES = ((6, 2), (4, 2), (3, 3), (2, 4), (2, 2), (1, 4), (1, 2), (1, 1))
_PAIRS = neon.NeonMicroKernel(tiles=((3, 1), (2, 1), (1, 1)), keeps_weights=True)

NEON_INORDER = Isa(
    name="neon_inorder",
    activation_dtype="int8",
    vector_bytes=16,
    int8=_PAIRS,
    float32=neon.NeonFmaMicroKernel(tiles=_FLOAT_TILES),
    round_clamp=neon.round_clamp,
    round_saturating=neon.round_saturating,
    narrow=neon.narrow,
    add_residual=neon.add_residual,
    narrows_pixels=True,
    loads_pairs=True,
    lookup=neon.lookup,
    depthwise_int8=neon.NeonDepthwise(tile=2, strided_tile=2),
    depthwise_float32=FmaDepthwise(lanes=4, vectors=1, tile=3),
    map_lanes=16,
    product_int8=replace(_PAIRS, chunks=(1,)),
)
