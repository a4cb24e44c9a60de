"""x86 with AMX: ``tdpbusd`` multiplies 16 x 64 codes by 64 x 16 weights; small layers stay with AVX512-VNNI.

Of bfloat16 numbers, ``tdpbf16ps`` multiplies 16 x 32 by 32 x 16.
"""

from __future__ import annotations

from dataclasses import replace

from qcompile.kernels.amx_kernel import BFLOAT16, AmxKernel
from qcompile.kernels.isa import avx512_vnni

AMX_INT8 = replace(
    avx512_vnni.AVX512_VNNI,
    name="amx_int8",
    matrix_int8=AmxKernel(),
    matrix_bfloat16=BFLOAT16,
    shared_int8=None,
)
