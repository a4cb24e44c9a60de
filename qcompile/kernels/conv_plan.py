"""How a convolution is cut: register tile, blocks of parallel work, walk over K."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qcompile.errors import LoweringError
from qcompile.kernels.amx_kernel import AmxKernel
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro_kernel import MicroKernel

_FINISH_CYCLES = 1.0
_NARROW_CYCLES = 1.5
TILE_CYCLES = 12.0
_NEAR_BYTES = 1 << 15
_FAR_BYTES_PER_CYCLE = 20
_STREAMED_BYTES = 1 << 17
_WANTED_ITEMS = 16
_ITEM_MACS = 200_000


def micro_kernel(workload: ConvWorkload, isa: Isa) -> MicroKernel | AmxKernel:
    """The inner kernel for the workload's precision and shape."""
    for matrix in (isa.matrix_int8, isa.matrix_bfloat16):
        if matrix is not None and matrix.fits(workload):
            return matrix
    if workload.precision == "float16":
        if isa.float16 is None:
            raise LoweringError(f"no {isa.name} kernel multiplies float16", hint="keep the layer in float32")
        return isa.float16
    if workload.precision == "bfloat16":
        if isa.bfloat16 is None:
            raise LoweringError(f"no {isa.name} kernel multiplies bfloat16", hint="keep the layer in float32")
        return isa.bfloat16
    pixels = workload.batch * workload.out_height * workload.out_width
    if isa.single_int8 is not None and workload.precision == "int8" and pixels == 1:
        return isa.single_int8
    if workload.byte_pairs and isa.byte_pairs is not None:
        return isa.byte_pairs
    return isa.int8 if workload.precision == "int8" else isa.float32


@dataclass(frozen=True)
class Walk:
    """The order in which a filter's weights are consumed.

    A run is a stretch of K which is contiguous in a row of pixels: all columns of a filter row
    (C times kernel columns) where they are neighbours, else the channels of one tap.

    Args:
        rows: filter rows.
        taps: runs in one filter row (1, or the kernel's columns).
        run: K values of a run.
        padded: the run rounded up to the dot group.
        gathered: the pixels under the filter are first laid side by side in scratch, so that the
            whole filter is one run: for few channels, whose rows would mostly be padding.
    """

    rows: int
    taps: int
    run: int
    padded: int
    gathered: bool = False

    @property
    def length(self) -> int:
        """Padded K of the whole filter."""
        return self.rows * self.taps * self.padded


def walk(workload: ConvWorkload, micro: MicroKernel | AmxKernel) -> Walk:
    """Choose the runs of a workload for an inner kernel."""
    kernel_rows, kernel_columns = workload.kernel
    per_group = workload.channels // workload.groups
    joined = workload.groups == 1 and (workload.dilations[1] == 1 or kernel_columns == 1)
    taps = 1 if joined else kernel_columns
    run = per_group * kernel_columns if joined else per_group
    if isinstance(micro, AmxKernel):
        if micro.gathers(run):
            return Walk(1, 1, kernel_rows * run, micro.padded(kernel_rows * run), gathered=True)
        return Walk(kernel_rows, taps, run, micro.padded(run))
    plain = Walk(kernel_rows, taps, run, _rounded(run, micro.group))
    if not joined or kernel_rows == 1 or workload.precision != "int8":
        return plain
    whole = kernel_rows * run
    gathered = Walk(1, 1, whole, _rounded(whole, micro.group), gathered=True)
    mr, nv = micro.tiles[0]
    per_pixel = micro.cycles(mr, nv) / mr * -(-workload.filters // (nv * micro.lanes))
    saved = (plain.length - gathered.length) / micro.group * per_pixel
    each = micro.gather_cycles
    return gathered if saved > each * kernel_rows * -(-run // 16) else plain


def places_of_runs(workload: ConvWorkload, order: Walk) -> list[int]:
    """Elements from the pixel under the first tap to the first one of each run; of copied pixels, in their copy."""
    columns = workload.width
    if any(workload.pads) or workload.in_pitch:
        columns = (workload.out_width - 1) * workload.strides[1] + (workload.kernel[1] - 1) * workload.dilations[1] + 1
    down, across = workload.dilations[0] * columns, workload.dilations[1]
    return [(i * down + j * across) * workload.channels for i in range(order.rows) for j in range(order.taps)]


def groups_of_step(order: Walk, micro: MicroKernel) -> int:
    """Groups that one turn of the loop over K consumes: fewer where a run has not two whole steps."""
    if order.padded < 2 * micro.unroll * micro.group:
        return micro.short_unroll
    return micro.unroll


def _rounded(run: int, group: int) -> int:
    """Next multiple of the dot group."""
    return -(-run // group) * group


@dataclass(frozen=True)
class Tiling:
    """Register tile: ``rows`` x ``columns`` output pixels by ``nv`` vectors of channels."""

    rows: int
    columns: int
    nv: int


def pieces(total: int, size: int) -> list[tuple[int, int]]:
    """(count, size) of whole pieces and of the remainder, of those that exist."""
    return [(count, part) for count, part in ((total // size, size), (1, total % size)) if count and part]


def choose_tiling(workload: ConvWorkload, isa: Isa) -> Tiling:
    """Pick the register tile of the least estimated cycles; depends on shape and ISA alone."""
    work, micro = workload.canonical(), micro_kernel(workload, isa)
    if isinstance(micro, AmxKernel):
        return Tiling(*micro.tile(work))
    return min(_candidates(work, micro), key=lambda tiling: (estimated_cycles(work, isa, tiling), -tiling.nv))


def estimated_cycles(work: ConvWorkload, isa: Isa, tiling: Tiling) -> float:
    """Estimate a layer that neither matrix tiles nor a depthwise kernel compute; `work` is canonical."""
    micro = micro_kernel(work, isa)
    assert not isinstance(micro, AmxKernel), "matrix tiles have no estimate"
    fit = isa.vector_bytes // micro.lanes if work.output == "int8" and isa.narrow is not None else 1
    return _cycles(work, micro, tiling, fit, isa.narrows_pixels)


def _candidates(work: ConvWorkload, micro: MicroKernel) -> Iterator[Tiling]:
    vectors = -(-(work.filters // work.groups) // micro.lanes)
    for mr, nv in micro.tiles:
        if nv > vectors and nv > min(tile[1] for tile in micro.tiles):
            continue
        columns = -(-work.out_width // -(-work.out_width // mr))
        rows = min(max(mr // columns, 1), work.out_height)
        yield Tiling(-(-work.out_height // -(-work.out_height // rows)), columns, nv)


def _cycles(work: ConvWorkload, micro: MicroKernel, tiling: Tiling, fit: int, shared: bool) -> float:
    """Estimate a layer.

    A tile pays for its dots, or for bringing its weights from the second-level cache if they do not
    fit into the first, and for its epilogue: so much a vector of sums, and so much a vector of codes,
    which takes up to ``fit`` vectors of sums, a power of two, of one pixel or (``shared``) of several.
    """
    vectors = -(-(work.filters // work.groups) // micro.lanes)
    groups = walk(work, micro).length / micro.group
    size = work.element_bytes
    step = micro.lanes * micro.group * size
    far = vectors * groups * step > _NEAR_BYTES
    total = 0.0
    for row_count, rows in pieces(work.out_height, tiling.rows):
        for column_count, columns in pieces(work.out_width, tiling.columns):
            for block_count, nv in pieces(vectors, tiling.nv):
                mr = rows * columns
                dots = micro.cycles(mr, nv)
                if far:
                    dots = max(dots, nv * step / _FAR_BYTES_PER_CYCLE)
                narrowings = nv / fit if shared else _narrowings(nv, fit)
                finish = _FINISH_CYCLES * nv + _NARROW_CYCLES * narrowings
                tile = groups * dots + finish * 2 * mr + TILE_CYCLES
                total += row_count * column_count * block_count * tile
    return total


def _narrowings(nv: int, fit: int) -> int:
    """Stores of one pixel's ``nv`` vectors, when up to ``fit`` of them, a power of two, go together."""
    whole, rest = divmod(nv, fit)
    return whole + rest.bit_count()


@dataclass(frozen=True)
class Blocking:
    """Parallel work: an item is a block of output pixels by a group of channel blocks.

    Args:
        rows: output rows of an item.
        columns: output columns of an item.
        blocks: channel blocks of an item, each ``nv * lanes`` channels.
    """

    rows: int
    columns: int
    blocks: int


@dataclass(frozen=True)
class ConvPlan:
    """Everything about a kernel that is free to choose: it decides the speed, never a bit of the result.

    Args:
        tiling: register tile; of a depthwise kernel only the most columns to compute at once matter.
        blocking: parallel work; of a depthwise kernel only its rows matter.
        square: rows and columns of outputs that share products (``winograd``), of which the register tile then has
            ``columns`` in one row; (1, 1): each output has its own.
    """

    tiling: Tiling
    blocking: Blocking
    square: tuple[int, int] = (1, 1)

    @property
    def shares_products(self) -> bool:
        """Whether tiles of outputs share products."""
        return self.square != (1, 1)


def choose_plan(workload: ConvWorkload, isa: Isa, l2_bytes: int) -> ConvPlan:
    """Choose by estimate, for a layer that no depthwise kernel computes."""
    tiling = choose_tiling(workload, isa)
    return ConvPlan(tiling, choose_blocking(workload, isa, tiling, l2_bytes))


def channel_blocks(workload: ConvWorkload, isa: Isa, tiling: Tiling) -> int:
    """Channel blocks of one group of the convolution."""
    lanes = micro_kernel(workload, isa).lanes
    return -(-(workload.filters // workload.groups) // (tiling.nv * lanes))


def choose_blocking(workload: ConvWorkload, isa: Isa, tiling: Tiling, l2_bytes: int) -> Blocking:
    """Cut the output so that what an item reads again stays in cache, in at least some 16 items."""
    work, micro = workload.canonical(), micro_kernel(workload, isa)
    per_group = channel_blocks(work, isa, tiling)
    blocks = per_group * work.groups
    size = work.element_bytes
    weights = blocks * walk(work, micro).length * tiling.nv * micro.lanes * size
    pixels = work.batch * work.out_height * work.out_width
    wanted = max(1, min(_WANTED_ITEMS, work.macs // _ITEM_MACS))
    far = weights >= l2_bytes // 4 if isa.prefetches else weights > l2_bytes * 3 // 4
    if far:  # weights are streamed: as many pixels as fit share one reading
        wanted = max(1, pixels * work.strides[0] * work.strides[1] * work.channels * size // (l2_bytes // 4))
    rows, columns = _block_of_pixels(work, tiling, max(1, pixels // wanted))
    items = work.batch * -(-work.out_height // rows) * -(-work.out_width // columns)
    parts = 1
    if far:
        parts = -(-weights // (l2_bytes // 4))
    if items < _WANTED_ITEMS:
        parts = max(parts, -(-min(_WANTED_ITEMS, max(1, work.macs // _ITEM_MACS)) // items))
    return Blocking(rows, columns, max(1, blocks // min(parts, blocks)))


def is_streamed(workload: ConvWorkload, isa: Isa, plan: ConvPlan) -> bool:
    """Return whether an item asks for the next one's weights: where these are other ones, and many."""
    blocks = channel_blocks(workload, isa, plan.tiling)
    if not isa.prefetches or workload.groups > 1 or plan.blocking.blocks >= blocks:
        return False
    return workload.filters * workload.reduction * workload.element_bytes >= _STREAMED_BYTES


def _block_of_pixels(work: ConvWorkload, tiling: Tiling, pixels: int) -> tuple[int, int]:
    """Rows and columns of a block of about ``pixels`` outputs, multiples of the tile."""
    if work.out_width > pixels and not any(work.pads) and work.kernel[0] == 1:
        return tiling.rows, _multiple(pixels, tiling.columns, work.out_width)
    return _multiple(pixels // work.out_width, tiling.rows, work.out_height), work.out_width


def _multiple(wanted: int, unit: int, limit: int) -> int:
    """Round up to a multiple of unit, at most limit (the whole extent)."""
    return min(limit, max(unit, -(-wanted // unit) * unit))
