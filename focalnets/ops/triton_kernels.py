"""Triton kernels that compute `focal_context` for torch on a GPU in a few launches instead of dozens.

On an H200 in bfloat16, they agree with the definition and are faster (`benchmarks/README.md`). They have not
run on a GPU in float32 yet. `tests/ops/test_triton.py` runs them in Triton's interpreter and compiles them.
Block sizes are estimated, not measured (`_tile`).

Shapes: B batch, H height, W width, C channels, L focal levels. All maps are (B, H, W, C). z_l is the output
of the convolution of level l, y_l = GELU(z_l), y_0 = context.

Forward: `_level` runs L times and fuses convolution and GELU. The last run also sums y_L over each tile. Then
`_aggregate` reads every y_l once and computes the gated sum in registers. Every position needs the mean of
the whole map, so a last kernel is necessary in any case. The levels therefore do not update a running total,
which saves reading or writing a map 2L - 2 times.

Backward: only the inputs and the mean are saved, and no map.

1. `_level` runs again and also stores z_l.
2. `_gates_gradient` computes the gradients of all gates, and the gradient of y_L through the mean.
3. `_map_gradient` computes the gradient of z_l, from the last level down to the context. It convolves the
   gradient of the next level with the rotated kernel, adds the gradient through the gate, and multiplies by
   the derivative of GELU before it writes.
4. `_weight_gradient` runs for each level.

Sums over tiles use a buffer with one partial sum per tile and one reduction, without atomics. The same inputs
therefore give bit for bit identical results. All sums are accumulated in float32.

The kernels are compute-bound: k*k multiply-adds per output, for one load and one conversion from half
precision. Each program therefore computes a column of ROWS tiles (COLUMNS, CHANNELS), so that a loaded row
contributes to up to k of them. The loop over tap columns is not unrolled, because the code would exceed the
instruction cache.
"""

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs does not include it
    triton = None

jit = triton.jit if triton else lambda kernel: kernel
constexpr = tl.constexpr if triton else None
INTERPRETED = triton is not None and triton.knobs.runtime.interpret  # `jit` reads it, too
LARGEST_KERNEL = 15  # a column of weights is in registers
GROUP = 8  # tiles per partial weight gradient, which takes a quarter of the bytes of a map for k = 7
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unsupported(context, gates, kernels):
    """Reason why `focal_context` cannot be used with these tensors, or None.

    Args:
        context: Tensor of shape (B, H, W, C).
        gates: Tensor of shape (B, H, W, L + 1).
        kernels: List of L tensors of shape (k_l, k_l, C, 1).
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
        return "the list of kernels is empty"
    if any(size % 2 == 0 or size > LARGEST_KERNEL for size in sizes):
        return f"kernel sizes are {sizes}, not odd and at most {LARGEST_KERNEL}"
    if context.numel() == 0:
        return f"the context is empty: {tuple(context.shape)}"
    if context.stride(3) != 1 and context.shape[3] > 1:
        return f"the channels of the context are not contiguous: their stride is {context.stride(3)}"
    return None


def focal_context(context, gates, kernels):
    """Compute `focalnets.ops.focal_context.focal_context` for tensors that `unsupported` accepts.

    The operation can be differentiated once. `torch.compile` does not trace into it.

    Args:
        context: Tensor of shape (B, H, W, C). A slice of a wider map is not copied.
        gates: Tensor of shape (B, H, W, L + 1), any strides.
        kernels: List of L tensors of shape (k_l, k_l, C, 1).

    Returns:
        Contiguous tensor of shape (B, H, W, C).

    Raises:
        ValueError: if the shapes differ from these. The kernels would read beyond the end of a tensor.
    """
    *places, channels = context.shape
    expected = [(*places, len(kernels) + 1), *((k.shape[0], k.shape[0], channels, 1) for k in kernels)]
    shapes = [tuple(tensor.shape) for tensor in (gates, *kernels)]
    if shapes != expected:
        raise ValueError(
            f"focal_context got gates and kernels of shapes {shapes} for a context of shape "
            f"{tuple(context.shape)}; expected {expected}."
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
    """Image, first row and columns of a tile. The image is int64, because offsets can exceed 32 bits."""
    across = tl.cdiv(W, COLUMNS)
    down = tl.cdiv(H, ROWS)
    columns = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    first_row = (tile // across) % down * ROWS
    return (tile // across // down).to(tl.int64), first_row, columns


@jit
def _offsets(row, columns, channels, row_stride, column_stride):
    """Offsets of the elements of a row (COLUMNS, CHANNELS) within an image."""
    columns = columns.to(tl.int64) * column_stride
    return row.to(tl.int64) * row_stride + columns[:, None] + channels[None, :]


@jit
def _inside(row, columns, channels, H, W, C):
    places = (row >= 0) & (row < H) & (columns >= 0) & (columns < W)
    return places[:, None] & (channels < C)[None, :]


@jit
def _load_row(x, row, columns, channels, row_stride, column_stride, H, W, C):
    """Elements of a row (COLUMNS, CHANNELS) in float32, zero outside the map."""
    offsets = _offsets(row, columns, channels, row_stride, column_stride)
    return tl.load(x + offsets, _inside(row, columns, channels, H, W, C), 0.0).to(tl.float32)


@jit
def _convolve(
    x, kernel, first_row, columns, channels, row_stride, column_stride, H, W, C,
    SIZE: constexpr, ROWS: constexpr, ROTATED: constexpr,
):  # fmt: skip
    """ROWS tiles (COLUMNS, CHANNELS) of a depthwise convolution, with the kernel rotated if ROTATED."""
    sums = (tl.zeros([columns.shape[0], channels.shape[0]], tl.float32),) * ROWS
    for j in range(SIZE):
        weights = ()
        for i in tl.static_range(SIZE):
            tap = i * SIZE + j
            if ROTATED:
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
    """Compute z = convolution of x, y = GELU(z) and sums (tiles, C) of y. y, z or sums may be None."""
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
    """Compute out = sum over levels of gate * y, plus last gate * GELU(mean). y is (L, B, H, W, C)."""
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
    """Compute d_gates (B, H, W, L + 1), and the sum over each tile (tiles, C) of the gradient of the mean."""
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
        from_tile = tl.sum(gradient * last_gate[:, None], 0) * _gelu_derivative(average)
        tl.store(d_mean + tile * C + channels, from_tile, channels < C)
    for level in tl.static_range(LEVELS + 1):
        d_gate = sums[level].to(d_gates.dtype.element_ty)
        tl.store(d_gates + places * (LEVELS + 1) + level, d_gate, pixels < H * W)


@jit
def _map_gradient(
    above, kernel, d_out, gates, z, gradient, gate_image, gate_row, gate_column, H, W, C,
    SIZE: constexpr, ROWS: constexpr, COLUMNS: constexpr, CHANNELS: constexpr,
):  # fmt: skip
    """Compute the gradient of z, or of the context if z is None.

    `above` is the gradient of z of the next level, and `kernel` the kernel of that level. On the last level,
    kernel is None and `above` is the gradient (B, C) of y through the mean. `gates` starts at this level.
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
    """Compute partial (groups, k, k, C), the sum of d_z times the shifted x over groups of TILES tiles.

    The loop over tap columns needs only k sums at a time. The tiles of a group stay in the L1 cache.
    """
    group = tl.program_id(0) // tl.cdiv(C, CHANNELS)
    channels = tl.program_id(0) % tl.cdiv(C, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    for j in range(SIZE):
        sums = (tl.zeros([COLUMNS, CHANNELS], tl.float32),) * SIZE
        for step in range(TILES):
            tile = group * TILES + step
            image, first_row, columns = _place(tile, H, W, ROWS, COLUMNS)
            first_row = tl.where(tile < tiles, first_row, H + SIZE)  # outside the map after the last tile
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
    """Block sizes of the convolutions. They are estimated, not measured.

    Tiles of 8 x 8 fit maps of 56 x 56. On maps of 7 x 7, 14 x 14 and 28 x 28, an eighth of each side is
    unused. A thread computes four channels of a column of eight positions. It needs 90 registers for k = 3
    and 190 for k = 11, and spills none on sm_90.
    """
    block = 64 if channels % 64 == 0 else min(32, triton.next_power_of_2(channels))
    return {"ROWS": 8, "COLUMNS": 8, "CHANNELS": block, "num_warps": max(1, 8 * block // 128)}


def _tiles(shape, tile):
    batch, height, width, _ = shape
    return batch * triton.cdiv(height, tile["ROWS"]) * triton.cdiv(width, tile["COLUMNS"])


def _pixel_block(channels):
    """Block sizes of the elementwise kernels: 2048 elements, four warps."""
    return {"PIXELS": 16, "CHANNELS": min(128, triton.next_power_of_2(channels))}


def _levels(context, kernels, y, z, sums):
    """Run all levels. y and z hold one map per level, or None to store no map. sums is (tiles, C) of y_L."""
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


# The kernels read strides from the tensors, so a compiler must pass the strides that `unsupported` checked.
_EXACT_STRIDES = (torch.Tag.needs_exact_strides,)  # torch 2.11 needs a sequence


@torch.library.custom_op("focalnets::focal_context", mutates_args=(), tags=_EXACT_STRIDES)
def _forward(
    context: torch.Tensor, gates: torch.Tensor, kernels: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Aggregated context (B, H, W, C), and mean (B, C) of the last level in float32."""
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
    """Contiguous gradients of context, gates and each kernel."""
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
    """Kernel gradient (k, k, C, 1) from d_z (B, H, W, C) and the input x of the level."""
    groups = triton.cdiv(tiles, GROUP)
    partial = x.new_empty((groups, *kernel.shape), dtype=torch.float32)
    _weight_gradient[(groups * blocks,)](
        x, d_z, partial, *x.stride()[:3], *x.shape[1:], tiles, TILES=GROUP, SIZE=kernel.shape[0], **tile
    )
    return partial.sum(0).to(kernel.dtype)


@_backward.register_fake
def _(d_out, context, gates, mean, kernels):
    return [tensor.new_empty(tensor.shape) for tensor in (context, gates, *kernels)]


def _save(ctx, inputs, output):
    context, gates, kernels = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(context, gates, output[1], *kernels)


def _gradients(ctx, d_out, _):
    context, gates, mean, *kernels = ctx.saved_tensors
    d_context, d_gates, *d_kernels = _backward(d_out, context, gates, mean, kernels)
    return d_context, d_gates, d_kernels


_forward.register_autograd(_gradients, setup_context=_save)
