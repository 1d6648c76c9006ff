"""Fused versions for torch on a CPU: oneDNN's products, and work in pieces that stay in the cache.

For float32, and bfloat16 where the processor computes with it. A 16-bit type that it has no units for is
computed in float32 (`in_float32`): torch multiplies it number by number otherwise.

What they are good for, measured on two cores with AVX-512 (`benchmarks/results/`):

- `aten::linear` goes to the BLAS library that torch was built with, which is 1.1 to 1.9 times slower than
  oneDNN's generated code on processors that are not its maker's; the weight gradient is not.
- The hidden map of an MLP is four times as wide as its input. In pieces of two megabytes, GELU and its
  gradient run in the cache; whole, each is a pass through memory, and what GELU returned is stored for
  the backward pass. Here it is computed again there, from a piece that has to be read anyway.
- A depthwise convolution and the GELU behind it are one pass where no gradient is wanted.
- oneDNN's fast gradient of depthwise kernels takes at most three columns: kernels of 5 x 5 and more get it
  three columns at a time.

`torch.ops.mkldnn` are the operators that torch's own compiler puts into the graphs it has frozen. They
are not public, so `unsupported` looks whether they are there.
"""

import torch
import torch.nn.functional as F

_PIECE = 2**19  # numbers in a piece of a hidden map: two megabytes, the second-level caches of two cores
_ROWS = 1024  # fewer of them, and packing the weights anew for each piece costs more than the cache gives

_AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise")
)

# oneDNN also takes bfloat16 where AVX-512 lacks units for it, and is then slower than with float32.
BFLOAT16 = (
    _AVAILABLE
    and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    and (torch.cpu._is_avx512_bf16_supported() or not torch.cpu._is_avx512_supported())
)
# The 16-bit types that the processor has units for.
NATIVE = {
    torch.bfloat16: BFLOAT16,
    torch.float16: _AVAILABLE and torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}
_COLUMNS = 3  # of a depthwise kernel, whose gradient oneDNN computes fast


def unsupported(x, *others):
    """The reason why the versions below cannot take these tensors, or None."""
    if torch.compiler.is_compiling():  # first, so that the compiler sees nothing of the rest
        return "the model is being compiled or exported"  # what is exported must run elsewhere
    if x.dtype is not torch.float32 and (x.dtype is not torch.bfloat16 or not NATIVE[torch.bfloat16]):
        return f"the processor does not compute with {x.dtype}"
    return _obstacle(x, *others)


def _obstacle(x, *others):
    """The reason that does not depend on the type."""
    if not _AVAILABLE:
        return "this build of torch has no oneDNN"
    for tensor in others:
        if tensor.dtype is not x.dtype:
            return "not all tensors are of one dtype"
    if not x.is_cpu:
        return f"the tensors are on {x.device.type}, not on a CPU"
    if x.numel() == 0:
        return "the tensor is empty"
    if torch._C._get_tracing_state() is not None:
        return "the model is being traced"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    return None


def not_for_float32(x, *others):
    """The reason why `in_float32` is not for these tensors, or None."""
    if torch.compiler.is_compiling():
        return "the model is being compiled or exported"
    if NATIVE.get(x.dtype, True):
        return f"the processor computes with {x.dtype}"
    return _obstacle(x, *(one for one in others if isinstance(one, torch.Tensor)))


def in_float32(function):
    """`function` of 16-bit tensors, computed in float32 and rounded once.

    Measured on two cores that lack units for float16 (3,136 rows of 96 by 96 x 384): 3.6 ms instead of 120.
    """

    def computed(x, *others):
        others = (one.float() if isinstance(one, torch.Tensor) else one for one in others)
        return function(x.float(), *others).to(x.dtype)

    return computed


def unsupported_context(context, gates, kernels):
    """The same for `focal_context`."""
    reason = unsupported(context, gates, *kernels)
    if reason is None and _needs_gradient(context, gates, *kernels):
        return "a gradient is wanted"
    return reason


def _needs_gradient(*tensors):
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _product(x, weight, bias=None):
    """x @ weight.T + bias; weight (O, I) with any strides."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def _plainly(dy):
    """Whether a backward pass has to be made of what torch can differentiate again, or take in batches."""
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(dy)


def _gradients(function, inputs, dy):
    """Those of `inputs` of function(*inputs), None where none is wanted, by torch's own rules."""
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        found = iter(torch.autograd.grad(function(*inputs), wanted, dy, create_graph=again))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, bias):
        ctx.save_for_backward(x, kernel)
        return _product(x, kernel.t(), bias)

    @staticmethod
    def backward(ctx, dy):
        x, kernel = ctx.saved_tensors
        wants_x, wants_kernel, wants_bias = ctx.needs_input_grad
        dx = dkernel = dbias = None
        if wants_x:
            dx = dy @ kernel.t() if _plainly(dy) else _product(dy.contiguous(), kernel)
        rows = dy.reshape(-1, dy.shape[-1])
        if wants_kernel:
            dkernel = x.flatten(0, -2).t() @ rows
        if wants_bias:
            dbias = rows.sum(0)
        return dx, dkernel, dbias


def linear(x, kernel, bias):
    if _needs_gradient(x, kernel, bias):
        return _Linear.apply(x, kernel, bias)
    return _product(x, kernel.t(), bias)


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel1, bias1, kernel2, bias2):
        before = x.new_empty((len(x), kernel1.shape[1]))  # the hidden map before GELU
        y = _mlp(x, kernel1, bias1, kernel2, bias2, before)
        ctx.save_for_backward(x, before, kernel1, bias1, kernel2, bias2)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, before, kernel1, bias1, kernel2, bias2 = ctx.saved_tensors
        if _plainly(dy):
            return _gradients(_plain_mlp, (x, kernel1, bias1, kernel2, bias2), dy)
        dy = dy.contiguous()
        dx = torch.empty_like(x)
        # Sums over pieces: in float32, also of bfloat16.
        dkernel1, dkernel2, dbias1 = (
            torch.zeros_like(tensor, dtype=torch.float32) for tensor in (kernel1, kernel2, bias1)
        )
        trains = any(ctx.needs_input_grad[1:])  # not in a frozen stage
        for rows in _pieces(len(x), kernel1.shape[1]):
            dbefore = torch.ops.aten.gelu_backward(_product(dy[rows], kernel2), before[rows])
            dx[rows] = _product(dbefore, kernel1)
            if trains:
                _add_product(dkernel2, F.gelu(before[rows]).t(), dy[rows])
                _add_product(dkernel1, x[rows].t(), dbefore)
                dbias1 += dbefore.sum(0)
        dkernel1, dkernel2, dbias1 = (tensor.to(x.dtype) for tensor in (dkernel1, dkernel2, dbias1))
        return dx, dkernel1, dbias1, dkernel2, dy.sum(0)


def _plain_mlp(x, kernel1, bias1, kernel2, bias2):
    return F.linear(F.gelu(F.linear(x, kernel1.t(), bias1)), kernel2.t(), bias2)


def _add_product(total, a, b):
    if a.dtype is total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def mlp(x, kernel1, bias1, kernel2, bias2):
    rows = x.flatten(0, -2).contiguous()
    if _needs_gradient(x, kernel1, bias1, kernel2, bias2):
        y = _MLP.apply(rows, kernel1, bias1, kernel2, bias2)
    else:
        y = _mlp(rows, kernel1, bias1, kernel2, bias2)
    return y.view(*x.shape[:-1], -1)


def _mlp(x, kernel1, bias1, kernel2, bias2, before=None):
    """The MLP of rows (N, I), piece by piece; writes the hidden map before GELU where it is wanted."""
    y = x.new_empty((len(x), kernel2.shape[1]))
    weight1, weight2 = kernel1.t(), kernel2.t()
    for rows in _pieces(len(x), kernel1.shape[1]):
        hidden = _product(x[rows], weight1, bias1)
        if before is not None:
            before[rows] = hidden
        y[rows] = _product(torch.ops.aten.gelu_(hidden), weight2, bias2)
    return y


def _pieces(rows, width):
    step = max(_PIECE // width, _ROWS)
    return [slice(start, start + step) for start in range(0, rows, step)]


def unsupported_depthwise(x, kernel):
    """The same for `depthwise_conv`, which is about the gradient."""
    reason = unsupported(x, kernel)
    if reason is None and kernel.shape[1] <= _COLUMNS:
        return "the gradient of small kernels is fast"
    if reason is None and not _needs_gradient(kernel):
        return "no gradient of the kernel is wanted"
    return reason


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel):
        ctx.save_for_backward(x, kernel)
        return _convolution(x, kernel)

    @staticmethod
    def backward(ctx, dy):
        x, kernel = ctx.saved_tensors
        if _plainly(dy):
            return _gradients(_convolution, (x, kernel), dy)
        dx = _convolution(dy, kernel.flip(0, 1)) if ctx.needs_input_grad[0] else None
        return dx, _kernel_gradient(x, dy.contiguous(), kernel)


def depthwise_conv(x, kernel):
    return _DepthwiseConv.apply(x, kernel)


def _convolution(x, kernel):
    weight, margin = kernel.permute(2, 3, 0, 1), kernel.shape[0] // 2
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=margin, groups=len(weight))
    return y.permute(0, 2, 3, 1)


def _kernel_gradient(x, dy, kernel):
    """Of columns start to start + 3, from the columns of the image that they meet."""
    size, margin, width = len(kernel), len(kernel) // 2, x.shape[2]
    gradient = torch.empty_like(kernel)
    missing = max(size - x.shape[1], 0)  # rows: it has to be no lower than the kernel
    x, dy = F.pad(x, (0, 0, margin, margin, 0, missing)), F.pad(dy, (0, 0, 0, 0, 0, missing))
    for start in range(0, size, _COLUMNS):
        columns = slice(start, min(start + _COLUMNS, size))
        met = x[:, :, start : columns.stop - 1 + width].contiguous()
        weight = kernel[:, columns].permute(2, 3, 0, 1)
        _, found, _ = torch.ops.aten.convolution_backward(
            dy.permute(0, 3, 1, 2),
            met.permute(0, 3, 1, 2),
            weight,
            None,
            [1, 1],
            [margin, 0],
            [1, 1],
            False,
            [0, 0],
            len(weight),
            [False, True, False],
        )
        gradient[:, columns] = found.permute(2, 3, 0, 1)
    return gradient


def focal_context(context, gates, kernels):
    total = None
    for level, kernel in enumerate(kernels):
        context = _convolution_gelu(context, kernel)
        gate = gates[..., level : level + 1]
        total = context * gate if total is None else total.addcmul_(context, gate)
    global_context = F.gelu(context.mean((1, 2), keepdim=True))
    return total.addcmul_(global_context, gates[..., len(kernels) :])


def _convolution_gelu(x, kernel):
    weight, margin = kernel.permute(2, 3, 0, 1), kernel.shape[0] // 2
    y = torch.ops.mkldnn._convolution_pointwise.default(
        x.permute(0, 3, 1, 2),
        weight,
        None,
        [margin, margin],
        [1, 1],
        [1, 1],
        kernel.shape[2],
        "gelu",
        [],
        "none",
    )
    return y.permute(0, 2, 3, 1)


def unsupported_pieces(function, x):
    """Why images need not, or cannot, go through `function` in pieces."""
    reason = unsupported(x)
    if reason is None and torch.is_grad_enabled():
        reason = "a gradient may be wanted"
    return reason


def map_chunks(function, x):
    """function(x) for as many of the images (B, H, W, C) at a time as stay in the cache."""
    step = max(2 * _PIECE // x[0].numel(), 1)
    if step >= len(x):
        return function(x)
    y = torch.empty_like(x)
    for start in range(0, len(x), step):
        y[start : start + step] = function(x[start : start + step])
    return y
