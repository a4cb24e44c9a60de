"""x86 with AVX-VNNI: 256-bit ``vpdpbusd`` in sixteen registers (Alder Lake and later, without AVX-512)."""

from __future__ import annotations

from dataclasses import replace

from qcompile.kernels.isa import ByteDots, avx2
from qcompile.kernels.single_row import single_row
from qcompile.kernels.vnni import VnniMicroKernel
from qcompile.kernels.vnni_depthwise import VnniDepthwise, dot

_TILES = ((6, 2), (12, 1), (4, 3), (3, 3), (2, 4), (4, 2), (3, 2))

AVX_VNNI = replace(
    avx2.AVX2,
    name="avx_vnni",
    int8=VnniMicroKernel(lanes=8, tiles=_TILES),
    byte_dots=ByteDots(dot, signed=False),
    byte_pairs=None,
    depthwise_int8=VnniDepthwise(sums_at_once=8, lanes=8, least_vectors=2, dealt=False),
    single_int8=single_row(VnniMicroKernel(lanes=8, tiles=_TILES), vectors=(8, 6, 4, 3, 2, 1), sums=10),
)
