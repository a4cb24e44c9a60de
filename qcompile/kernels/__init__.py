"""Generators of machine code for operators, and the compiler of their output to objects.

A generator takes a frozen description of the work and an instruction set (``isa``) and returns a
``kernel.Kernel``; ``build.build_objects`` turns kernels into an ELF object whose functions all have
one C type::

    int32_t k(uint8_t *p0, ..., uint8_t *p7, uint8_t *scratch, int32_t begin, int32_t end)

A call computes the parallel items [begin, end) of ``Kernel.tiles`` and returns 0. It allocates nothing,
keeps nothing and calls nothing. Any division of the items into calls, in any order and on any number of
threads, gives the same bits. What callers owe it:

- every pointer is a multiple of 64 bytes; unused ones may be NULL;
- every operand is followed by at least 64 readable bytes, whose values do not matter;
- ``scratch`` is ``Kernel.scratch_bytes`` long, a multiple of 64, and belongs to one thread at a time;
- the output overlaps no other operand, except that it may be the residual.

An int8 activation lies in memory as its instruction set wants it: q, or (VNNI) q + 128 as uint8.

    conv, conv_workload, conv_packing    convolutions, matrix products, depthwise convolutions
    conv_plan, staging, epilogue         how they are cut, how borders are made, how they end
    micro, x86, *_depthwise, depthwise_micro   inner kernels that instruction sets share
"""
