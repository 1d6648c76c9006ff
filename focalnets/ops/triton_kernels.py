"""`focal_context` on a GPU under torch: a handful of Triton kernels in place of dozens of passes.

No GPU has run this file yet. The kernels are tested in Triton's interpreter (`tests/ops/test_triton.py`) and
compiled, not run, for real devices; block sizes are reasoned, not measured: see `_tile`.

Shapes: B batch, H height, W width, C channels, L focal levels. All maps are (B, H, W, C). z_l is what the
convolution of level l gives, y_l = GELU(z_l), y_0 = context.

Forward: L times `_level` (convolution and GELU in one pass; the last one also sums y_L over each tile),
then `_aggregate`, which reads every y_l once and adds the gated sum up in registers. One pass at the end
is needed in any case, since no position can be finished before the mean of the whole map is known; so
the running total is not carried from level to level, which saves 2L - 2 passes over a map.

Backward: saved are the inputs and the mean, nothing as large as a map.

1. `_level` again, which now keeps z_l too.
2. `_gates_gradient`: the gradient of every gate, and the one that reaches y_L through the mean.
3. From the last level down to the context, `_map_gradient`: gradient of z_l. The gradient that comes from
   the level above is that level's convolution with its taps turned round; the gate's share and the
   derivative of GELU are applied before anything is written.
4. For each level `_weight_gradient`.

Sums over tiles go through buffers of one partial sum a tile and one reduction, never through atomics:
the same inputs give the same bits. Everything is accumulated in float32.

The bound is arithmetic: k*k multiply-adds an output, against one load and one conversion from half
precision. So a program computes a column of ROWS tiles (COLUMNS, CHANNELS) at once: each loaded row feeds
up to k of them. The loop over tap columns stays a loop, or the code would outgrow the instruction cache.
"""

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs comes without it
    triton = None

jit = triton.jit if triton else lambda kernel: kernel
constexpr = tl.constexpr if triton else None
INTERPRETED = triton is not None and triton.knobs.runtime.interpret  # what `jit` has just looked at
LARGEST_KERNEL = 15  # a column of weights is held in registers
GROUP = 8  # tiles to a partial weight gradient: for k = 7 these then take a quarter of a map's bytes
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unsupported(context, gates, kernels):
    """Why `focal_context` below cannot take these tensors, in words; None if it can.

    Args:
        context: tensor (B, H, W, C).
        gates: tensor (B, H, W, L + 1).
        kernels: L tensors (k_l, k_l, C, 1).
    """
    if triton is None:
        return "triton is not installed"
    dtypes = {tensor.dtype for tensor in (context, gates, *kernels)}
    sizes = [kernel.shape[0] for kernel in kernels]
    if context.device.type != "cuda" and not INTERPRETED:
        return f"tensors are on the device {context.device.type!r}, not on a GPU"
    if len(dtypes) > 1 or context.dtype not in DTYPES:
        return f"dtypes are {sorted(map(str, dtypes))}, not one of float32, bfloat16 and float16 throughout"
    if not kernels:
        return "there is no focal level"
    if any(size % 2 == 0 or size > LARGEST_KERNEL for size in sizes):
        return f"kernel sizes are {sizes}, not odd and at most {LARGEST_KERNEL}"
    if context.numel() == 0:
        return f"the context is empty: {tuple(context.shape)}"
    if context.stride(3) != 1 and context.shape[3] > 1:
        return f"the channels of the context do not lie side by side: their stride is {context.stride(3)}"
    return None


def focal_context(context, gates, kernels):
    """What `focalnets.ops.focal_context.focal_context` computes, for tensors that `unsupported` lets pass.

    Differentiable once in all of its inputs, and one opaque operation to `torch.compile`.

    Args:
        context: tensor (B, H, W, C); may be a slice of a wider map, which is not copied.
        gates: tensor (B, H, W, L + 1), of any strides.
        kernels: L tensors (k_l, k_l, C, 1).

    Returns:
        Tensor (B, H, W, C), contiguous.

    Raises:
        ValueError: if shapes do not fit: kernels would read beyond the end of a tensor.
    """
    *places, channels = context.shape
    wanted = [(*places, len(kernels) + 1), *((k.shape[0], k.shape[0], channels, 1) for k in kernels)]
    shapes = [tuple(tensor.shape) for tensor in (gates, *kernels)]
    if shapes != wanted:
        raise ValueError(
            f"focal_context got gates and kernels of shapes {shapes} for a context {tuple(context.shape)}; "
            f"it needs {wanted}."
        )
    return _forward(context, gates, list(kernels))[0]


# --- kernels -------------------------------------------------------------------------------------------


@jit
def _gelu(z):
    return 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))


@jit
def _gelu_derivative(z):
    return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * tl.exp(-0.5 * z * z) * 0.3989422804014327


@jit
def _place(tile, H, W, ROWS: constexpr, COLUMNS: constexpr):
    """Image, first row and columns of a tile. The image is an int64: offsets of images exceed 32 bits."""
    across = tl.cdiv(W, COLUMNS)
    down = tl.cdiv(H, ROWS)
    columns = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    first_row = (tile // across) % down * ROWS
    return (tile // across // down).to(tl.int64), first_row, columns


@jit
def _offsets(row, columns, channels, row_stride, column_stride):
    """Offsets of a row's elements (COLUMNS, CHANNELS) within an image."""
    columns = columns.to(tl.int64) * column_stride
    return row.to(tl.int64) * row_stride + columns[:, None] + channels[None, :]


@jit
def _inside(row, columns, channels, H, W, C):
    places = (row >= 0) & (row < H) & (columns >= 0) & (columns < W)
    return places[:, None] & (channels < C)[None, :]


@jit
def _load_row(x, row, columns, channels, row_stride, column_stride, H, W, C):
    """(COLUMNS, CHANNELS) in float32; zero outside of the map."""
    offsets = _offsets(row, columns, channels, row_stride, column_stride)
    return tl.load(x + offsets, _inside(row, columns, channels, H, W, C), 0.0).to(tl.float32)


@jit
def _convolve(
    x, kernel, first_row, columns, channels, row_stride, column_stride, H, W, C,
    SIZE: constexpr, ROWS: constexpr, TURNED: constexpr,
):  # fmt: skip
    """ROWS tiles (COLUMNS, CHANNELS) of a depthwise convolution; TURNED: with its taps turned round."""
    sums = (tl.zeros([columns.shape[0], channels.shape[0]], tl.float32),) * ROWS
    for j in range(SIZE):
        weights = ()
        for i in tl.static_range(SIZE):
            tap = i * SIZE + j
            if TURNED:
                tap = SIZE * SIZE - 1 - tap
            weights = weights + (tl.load(kernel + tap * C + channels, channels < C, 0.0).to(tl.float32),)
        for row in tl.static_range(ROWS + SIZE - 1):
            loaded = _load_row(
                x, first_row + row - SIZE // 2, columns + j - SIZE // 2, channels,
                row_stride, column_stride, H, W, C,
            )  # fmt: skip
            for r in tl.static_range(ROWS):
                if row - r >= 0 and row - r < SIZE:
                    sums = sums[:r] + (sums[r] + loaded * weights[row - r][None, :],) + sums[r + 1 :]
    return sums


@jit
def _level(
    x, kernel, y, z, sums, image_stride, row_stride, column_stride, H, W, C,
    SIZE: constexpr, ROWS: constexpr, COLUMNS: constexpr, CHANNELS: constexpr,
):  # fmt: skip
    """y = GELU(z) and z = convolution of x, and sums (tiles, C) of y; y, z or sums may be None."""
    tile = tl.program_id(0) // tl.cdiv(C, CHANNELS)
    channels = tl.program_id(0) % tl.cdiv(C, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    image, first_row, columns = _place(tile, H, W, ROWS, COLUMNS)
    tiles = _convolve(
        x + image * image_stride, kernel, first_row, columns, channels, row_stride, column_stride, H, W, C,
        SIZE, ROWS, False,
    )  # fmt: skip
    total = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    for r in tl.static_range(ROWS):
        inside = _inside(first_row + r, columns, channels, H, W, C)
        offsets = image * H * W * C + _offsets(first_row + r, columns, channels, W * C, C)
        activated = _gelu(tiles[r])
        if z is not None:
            tl.store(z + offsets, tiles[r].to(z.dtype.element_ty), inside)
        if y is not None:
            tl.store(y + offsets, activated.to(y.dtype.element_ty), inside)
        total += tl.where(inside, activated, 0.0)
    if sums is not None:
        tl.store(sums + tile.to(tl.int64) * C + channels, tl.sum(total, 0), channels < C)


@jit
def _aggregate(
    y, gates, mean, out, map_size, gate_image, gate_row, gate_column, gate_level, H, W, C,
    LEVELS: constexpr, PIXELS: constexpr, CHANNELS: constexpr,
):  # fmt: skip
    """out = sum of gate * y over the levels, and the last gate times GELU(mean); y (L, B, H, W, C)."""
    channels = tl.program_id(0) % tl.cdiv(C, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    tile = tl.program_id(0) // tl.cdiv(C, CHANNELS)
    image = (tile // tl.cdiv(H * W, PIXELS)).to(tl.int64)
    pixels = tile % tl.cdiv(H * W, PIXELS) * PIXELS + tl.arange(0, PIXELS)
    inside = (pixels < H * W)[:, None] & (channels < C)[None, :]
    offsets = image * H * W * C + pixels.to(tl.int64)[:, None] * C + channels[None, :]
    gates += image * gate_image + (pixels // W).to(tl.int64) * gate_row + pixels % W * gate_column
    average = tl.load(mean + image * C + channels, channels < C, 0.0)
    gate = tl.load(gates + LEVELS * gate_level, pixels < H * W, 0.0).to(tl.float32)
    total = gate[:, None] * _gelu(average)[None, :]
    place = offsets
    for level in tl.static_range(LEVELS):
        gate = tl.load(gates + level * gate_level, pixels < H * W, 0.0).to(tl.float32)
        total += gate[:, None] * tl.load(y + place, inside, 0.0).to(tl.float32)
        place += map_size
    tl.store(out + offsets, total.to(out.dtype.element_ty), inside)


@jit
def _gates_gradient(
    d_out, z, gates, mean, d_gates, d_mean, map_size,
    gate_image, gate_row, gate_column, gate_level, H, W, C,
    LEVELS: constexpr, BLOCKS: constexpr, PIXELS: constexpr, CHANNELS: constexpr,
):  # fmt: skip
    """d_gates (B, H, W, L + 1), and of each tile the share (tiles, C) of the gradient of the mean."""
    tile = tl.program_id(0).to(tl.int64)
    image = tile // tl.cdiv(H * W, PIXELS)
    pixels = (tile % tl.cdiv(H * W, PIXELS)).to(tl.int32) * PIXELS + tl.arange(0, PIXELS)
    places = image * H * W + pixels
    gates += image * gate_image + (pixels // W).to(tl.int64) * gate_row + pixels % W * gate_column
    last_gate = tl.load(gates + LEVELS * gate_level, pixels < H * W, 0.0).to(tl.float32)
    sums = (tl.zeros([PIXELS], tl.float32),) * (LEVELS + 1)
    for block in range(BLOCKS):
        channels = block * CHANNELS + tl.arange(0, CHANNELS)
        inside = (pixels < H * W)[:, None] & (channels < C)[None, :]
        offsets = places[:, None] * C + channels[None, :]
        gradient = tl.load(d_out + offsets, inside, 0.0).to(tl.float32)
        for level in tl.static_range(LEVELS):
            y = _gelu(tl.load(z + offsets, inside, 0.0).to(tl.float32))
            sums = sums[:level] + (sums[level] + tl.sum(gradient * y, 1),) + sums[level + 1 :]
            offsets += map_size
        average = tl.load(mean + image * C + channels, channels < C, 0.0)
        sums = sums[:LEVELS] + (sums[LEVELS] + tl.sum(gradient * _gelu(average)[None, :], 1),)
        share = tl.sum(gradient * last_gate[:, None], 0) * _gelu_derivative(average)
        tl.store(d_mean + tile * C + channels, share, channels < C)
    for level in tl.static_range(LEVELS + 1):
        d_gate = sums[level].to(d_gates.dtype.element_ty)
        tl.store(d_gates + places * (LEVELS + 1) + level, d_gate, pixels < H * W)


@jit
def _map_gradient(
    above, kernel, d_out, gates, z, gradient, gate_image, gate_row, gate_column, H, W, C,
    SIZE: constexpr, ROWS: constexpr, COLUMNS: constexpr, CHANNELS: constexpr,
):  # fmt: skip
    """Gradient of z, or of the context, where z is None.

    `above` is the gradient of the next level's z, which comes through its kernel; on the last level, where
    kernel is None, it is the gradient (B, C) of every y through the mean. `gates` starts at this level's.
    """
    tile = tl.program_id(0) // tl.cdiv(C, CHANNELS)
    channels = tl.program_id(0) % tl.cdiv(C, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    image, first_row, columns = _place(tile, H, W, ROWS, COLUMNS)
    if kernel is None:
        from_mean = tl.load(above + image * C + channels, channels < C, 0.0)
        tiles = (tl.zeros([COLUMNS, CHANNELS], tl.float32) + from_mean[None, :],) * ROWS
    else:
        tiles = _convolve(
            above + image * H * W * C, kernel, first_row, columns, channels, W * C, C, H, W, C,
            SIZE, ROWS, True,
        )  # fmt: skip
    for r in tl.static_range(ROWS):
        row = first_row + r
        inside = _inside(row, columns, channels, H, W, C)
        offsets = image * H * W * C + _offsets(row, columns, channels, W * C, C)
        total = tiles[r]
        if z is not None:
            place = image * gate_image + row.to(tl.int64) * gate_row + columns.to(tl.int64) * gate_column
            gate = tl.load(gates + place, (row < H) & (columns < W), 0.0).to(tl.float32)
            total += gate[:, None] * tl.load(d_out + offsets, inside, 0.0).to(tl.float32)
            total *= _gelu_derivative(tl.load(z + offsets, inside, 0.0).to(tl.float32))
        tl.store(gradient + offsets, total.to(gradient.dtype.element_ty), inside)


@jit
def _weight_gradient(
    x, d_z, partial, image_stride, row_stride, column_stride, H, W, C, tiles,
    TILES: constexpr, SIZE: constexpr, ROWS: constexpr, COLUMNS: constexpr, CHANNELS: constexpr,
):  # fmt: skip
    """partial (groups, k, k, C): sum of d_z times the shifted x over a group of TILES tiles.

    One tap column after the other, so that only k sums are held; the group's maps stay in the L1 cache.
    """
    group = tl.program_id(0) // tl.cdiv(C, CHANNELS)
    channels = tl.program_id(0) % tl.cdiv(C, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    for j in range(SIZE):
        sums = (tl.zeros([COLUMNS, CHANNELS], tl.float32),) * SIZE
        for step in range(TILES):
            tile = group * TILES + step
            image, first_row, columns = _place(tile, H, W, ROWS, COLUMNS)
            first_row = tl.where(tile < tiles, first_row, H + SIZE)  # beyond the last tile: nothing inside
            gradients = ()
            for r in tl.static_range(ROWS):
                gradient = _load_row(
                    d_z + image * H * W * C, first_row + r, columns, channels, W * C, C, H, W, C
                )
                gradients = gradients + (gradient,)
            for row in tl.static_range(ROWS + SIZE - 1):
                loaded = _load_row(
                    x + image * image_stride, first_row + row - SIZE // 2, columns + j - SIZE // 2, channels,
                    row_stride, column_stride, H, W, C,
                )  # fmt: skip
                for i in tl.static_range(SIZE):
                    if row - i >= 0 and row - i < ROWS:
                        sums = sums[:i] + (sums[i] + loaded * gradients[row - i],) + sums[i + 1 :]
        for i in tl.static_range(SIZE):
            place = (group.to(tl.int64) * SIZE + i) * SIZE + j
            tl.store(partial + place * C + channels, tl.sum(sums[i], 0), channels < C)


# --- launching -----------------------------------------------------------------------------------------


def _tile(channels):
    """Block sizes of the convolutions. Reasoned, not measured.

    8 x 8 places waste nothing on maps of 56 x 56, an eighth of either side on 7 x 7, 14 x 14 and 28 x 28.
    A thread has four channels of a column of eight places: 90 registers for k = 3, 190 for k = 11, none
    of them spilled on sm_90.
    """
    block = 64 if channels % 64 == 0 else min(32, triton.next_power_of_2(channels))
    return {"ROWS": 8, "COLUMNS": 8, "CHANNELS": block, "num_warps": max(1, 8 * block // 128)}


def _tiles(shape, tile):
    batch, height, width, _ = shape
    return batch * triton.cdiv(height, tile["ROWS"]) * triton.cdiv(width, tile["COLUMNS"])


def _pixel_block(channels):
    """Block sizes of the passes without neighbors: 2048 elements, four warps."""
    block = min(128, triton.next_power_of_2(channels))
    return {"PIXELS": 16, "CHANNELS": block}


def _levels(context, kernels, y, z, sums):
    """Run every level. y and z: a map a level, or None where it need not be kept; sums (tiles, C) of y_L."""
    _, height, width, channels = context.shape
    tile = _tile(channels)
    programs = _tiles(context.shape, tile) * triton.cdiv(channels, tile["CHANNELS"])
    source = context
    for level, kernel in enumerate(kernels):
        last = sums if level == len(kernels) - 1 else None
        _level[(programs,)](
            source, kernel, y[level], z[level], last, *source.stride()[:3], height, width, channels,
            SIZE=kernel.shape[0], **tile,
        )  # fmt: skip
        source = y[level]


# Strides are read from the tensors, so a compiler must hand on those that `unsupported` saw.
_EXACT_STRIDES = torch.Tag.needs_exact_strides


@torch.library.custom_op("focalnets::focal_context", mutates_args=(), tags=_EXACT_STRIDES)
def _forward(
    context: torch.Tensor, gates: torch.Tensor, kernels: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The aggregated context (B, H, W, C) and the mean (B, C) of the last level, in float32."""
    kernels = [kernel.contiguous() for kernel in kernels]
    levels, (batch, height, width, channels) = len(kernels), context.shape
    pixels = _pixel_block(channels)
    with torch.cuda.device_of(context):
        y = context.new_empty((levels, *context.shape))
        sums = context.new_empty((_tiles(context.shape, _tile(channels)), channels), dtype=torch.float32)
        _levels(context, kernels, y, [None] * levels, sums)
        mean = sums.view(batch, -1, channels).sum(1) / (height * width)
        out = context.new_empty(context.shape)
        blocks = triton.cdiv(height * width, pixels["PIXELS"]) * triton.cdiv(channels, pixels["CHANNELS"])
        _aggregate[(batch * blocks,)](
            y, gates, mean, out, y[0].numel(), *gates.stride(), height, width, channels,
            LEVELS=levels, **pixels,
        )  # fmt: skip
    return out, mean


@_forward.register_fake
def _(context, gates, kernels):
    batch, _, _, channels = context.shape
    return context.new_empty(context.shape), context.new_empty((batch, channels), dtype=torch.float32)


@torch.library.custom_op("focalnets::focal_context_backward", mutates_args=(), tags=_EXACT_STRIDES)
def _backward(
    d_out: torch.Tensor,
    context: torch.Tensor,
    gates: torch.Tensor,
    mean: torch.Tensor,
    kernels: list[torch.Tensor],
) -> list[torch.Tensor]:
    """Gradients of context, gates and each kernel, contiguous."""
    d_out, kernels = d_out.contiguous(), [kernel.contiguous() for kernel in kernels]
    levels, (batch, height, width, channels) = len(kernels), context.shape
    tile, pixels = _tile(channels), _pixel_block(channels)
    size = (height, width, channels)
    tiles = _tiles(context.shape, tile)
    blocks = triton.cdiv(channels, tile["CHANNELS"])
    with torch.cuda.device_of(context):
        y = [context.new_empty(context.shape) for _ in range(levels - 1)]
        z = context.new_empty((levels, *context.shape))
        _levels(context, kernels, [*y, None], z, None)

        d_gates = gates.new_empty(gates.shape)
        pixel_tiles = batch * triton.cdiv(height * width, pixels["PIXELS"])
        d_mean = mean.new_empty((pixel_tiles, channels))
        _gates_gradient[(pixel_tiles,)](
            d_out, z, gates, mean, d_gates, d_mean, z[0].numel(), *gates.stride(), *size,
            LEVELS=levels, BLOCKS=triton.cdiv(channels, pixels["CHANNELS"]), **pixels,
        )  # fmt: skip

        gradient, kernel = d_mean.view(batch, -1, channels).sum(1) / (height * width), None
        d_kernels = []
        for level in range(levels, -1, -1):
            above, gradient = gradient, context.new_empty(context.shape)
            gate, before = (gates[..., level - 1 :], z[level - 1]) if level else (None, None)
            _map_gradient[(tiles * blocks,)](
                above, kernel, d_out, gate, before, gradient, *gates.stride()[:3], *size,
                SIZE=kernel.shape[0] if level < levels else 0, **tile,
            )  # fmt: skip
            if level:
                source, kernel = [context, *y][level - 1], kernels[level - 1]
                d_kernels.insert(0, _kernel_gradient(source, gradient, kernel, tile, tiles, blocks))
    return [gradient, d_gates, *d_kernels]


def _kernel_gradient(x, d_z, kernel, tile, tiles, blocks):
    """(k, k, C, 1), from d_z (B, H, W, C) and the level's input x."""
    groups = triton.cdiv(tiles, GROUP)
    partial = x.new_empty((groups, *kernel.shape), dtype=torch.float32)
    _weight_gradient[(groups * blocks,)](
        x, d_z, partial, *x.stride()[:3], *x.shape[1:], tiles, TILES=GROUP, SIZE=kernel.shape[0], **tile
    )
    return partial.sum(0).to(kernel.dtype)


@_backward.register_fake
def _(d_out, context, gates, mean, kernels):
    return [tensor.new_empty(tensor.shape) for tensor in (context, gates, *kernels)]


def _keep(ctx, inputs, output):
    context, gates, kernels = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(context, gates, output[1], *kernels)


def _gradients(ctx, d_out, _):
    context, gates, mean, *kernels = ctx.saved_tensors
    d_context, d_gates, *d_kernels = _backward(d_out, context, gates, mean, kernels)
    return d_context, d_gates, d_kernels


_forward.register_autograd(_gradients, setup_context=_keep)
