"""Fused operations for torch on a CPU: oneDNN's matrix multiplications, and chunks that stay in the cache.

They support float32, and bfloat16 if the processor does. Other 16-bit types are computed in float32
(`in_float32`), because torch multiplies them one number at a time.

Reasons, measured on two cores with AVX-512 (`benchmarks/results/`):

- `aten::linear` calls the BLAS library of the torch build. On processors of another vendor, it is 1.1 to 1.9
  times slower than oneDNN's generated code. The weight gradient is not slower.
- The hidden map of an MLP is four times as wide as its input. In chunks of two megabytes, GELU and its
  gradient run in the cache instead of being memory-bound. The backward pass recomputes GELU from a chunk that
  it reads anyway, so the output of GELU is not stored.
- A depthwise convolution and the following GELU are one operation if no gradient is needed.
- oneDNN has a fast gradient of depthwise kernels with at most three columns. The gradient of kernels of 5 x 5
  and more is computed three columns at a time.

`torch.ops.mkldnn` holds the operators that torch's compiler inserts into frozen graphs. They are not public,
so `_AVAILABLE` checks that they exist.
"""

import torch
import torch.nn.functional as F

_CHUNK = 2**19  # elements of a hidden map per chunk: two megabytes, the L2 caches of two cores
_MIN_ROWS = 1024  # with fewer rows per chunk, repacking the weights costs more than the cache saves

_AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise")
)

# oneDNN also accepts bfloat16 on AVX-512 without BF16 instructions, where it is slower than float32.
BFLOAT16 = (
    _AVAILABLE
    and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    and (torch.cpu._is_avx512_bf16_supported() or not torch.cpu._is_avx512_supported())
)
# 16-bit type -> whether the processor has instructions for it.
NATIVE = {
    torch.bfloat16: BFLOAT16,
    torch.float16: _AVAILABLE and torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}
_MAX_COLUMNS = 3  # columns of a depthwise kernel up to which oneDNN's gradient is fast


def unsupported(x, *others):
    """Reason why the functions below cannot be used with these tensors, or None."""
    if torch.compiler.is_compiling():  # first, so that the compiler does not trace the other checks
        return "the model is being compiled or exported"  # exported models must run elsewhere
    if x.dtype is not torch.float32 and (x.dtype is not torch.bfloat16 or not NATIVE[torch.bfloat16]):
        return f"the processor does not support {x.dtype}"
    return _obstacle(x, *others)


def _obstacle(x, *others):
    """Reason that does not depend on the dtype, or None."""
    if not _AVAILABLE:
        return "this build of torch has no oneDNN"
    for tensor in others:
        if tensor.dtype is not x.dtype:
            return "the tensors differ in dtype"
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


def unsupported_in_float32(x, *others):
    """Reason why `in_float32` cannot be used with these tensors, or None."""
    if torch.compiler.is_compiling():
        return "the model is being compiled or exported"
    if NATIVE.get(x.dtype, True):
        return f"the processor supports {x.dtype}"
    return _obstacle(x, *(one for one in others if isinstance(one, torch.Tensor)))


def in_float32(function):
    """Wrap a function so that 16-bit tensors are computed in float32 and rounded once.

    On two cores without float16 instructions, (3136, 96) @ (96, 384) takes 3.6 ms instead of 120 ms.
    """

    def computed(x, *others):
        others = (one.float() if isinstance(one, torch.Tensor) else one for one in others)
        return function(x.float(), *others).to(x.dtype)

    return computed


def unsupported_context(context, gates, kernels):
    reason = unsupported(context, gates, *kernels)
    if reason is None and _needs_gradient(context, gates, *kernels):
        return "a gradient is needed"
    return reason


def _needs_gradient(*tensors):
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _matmul(x, weight, bias=None):
    """Compute x @ weight.T + bias. weight has the shape (O, I) and any strides."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def _needs_plain_backward(dy):
    """Check whether torch differentiates or batches (vmap) the backward pass."""
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(dy)


def _gradients(function, inputs, dy):
    """Gradients of function(*inputs) by torch's autograd, None for inputs that do not require one."""
    variables = [tensor for tensor in inputs if tensor.requires_grad]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        found = iter(torch.autograd.grad(function(*inputs), variables, dy, create_graph=create_graph))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, bias):
        ctx.save_for_backward(x, kernel)
        return _matmul(x, kernel.t(), bias)

    @staticmethod
    def backward(ctx, dy):
        x, kernel = ctx.saved_tensors
        needs_x, needs_kernel, needs_bias = ctx.needs_input_grad
        dx = dkernel = dbias = None
        if needs_x:
            dx = dy @ kernel.t() if _needs_plain_backward(dy) else _matmul(dy.contiguous(), kernel)
        rows = dy.reshape(-1, dy.shape[-1])
        if needs_kernel:
            dkernel = x.flatten(0, -2).t() @ rows
        if needs_bias:
            dbias = rows.sum(0)
        return dx, dkernel, dbias


def linear(x, kernel, bias):
    if _needs_gradient(x, kernel, bias):
        return _Linear.apply(x, kernel, bias)
    return _matmul(x, kernel.t(), bias)


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
        if _needs_plain_backward(dy):
            return _gradients(_plain_mlp, (x, kernel1, bias1, kernel2, bias2), dy)
        dy = dy.contiguous()
        dx = torch.empty_like(x)
        # Sums over chunks are float32, also for bfloat16.
        dkernel1, dkernel2, dbias1 = (
            torch.zeros_like(tensor, dtype=torch.float32) for tensor in (kernel1, kernel2, bias1)
        )
        trains = any(ctx.needs_input_grad[1:])  # False in a frozen stage
        for rows in _chunks(len(x), kernel1.shape[1]):
            dbefore = torch.ops.aten.gelu_backward(_matmul(dy[rows], kernel2), before[rows])
            dx[rows] = _matmul(dbefore, kernel1)
            if trains:
                _add_matmul(dkernel2, F.gelu(before[rows]).t(), dy[rows])
                _add_matmul(dkernel1, x[rows].t(), dbefore)
                dbias1 += dbefore.sum(0)
        dkernel1, dkernel2, dbias1 = (tensor.to(x.dtype) for tensor in (dkernel1, dkernel2, dbias1))
        return dx, dkernel1, dbias1, dkernel2, dy.sum(0)


def _plain_mlp(x, kernel1, bias1, kernel2, bias2):
    return F.linear(F.gelu(F.linear(x, kernel1.t(), bias1)), kernel2.t(), bias2)


def _add_matmul(total, a, b):
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
    """MLP of rows (N, I), one chunk at a time. Writes the hidden map before GELU into `before`."""
    y = x.new_empty((len(x), kernel2.shape[1]))
    weight1, weight2 = kernel1.t(), kernel2.t()
    for rows in _chunks(len(x), kernel1.shape[1]):
        hidden = _matmul(x[rows], weight1, bias1)
        if before is not None:
            before[rows] = hidden
        y[rows] = _matmul(torch.ops.aten.gelu_(hidden), weight2, bias2)
    return y


def _chunks(rows, width):
    step = max(_CHUNK // width, _MIN_ROWS)
    return [slice(start, start + step) for start in range(0, rows, step)]


def unsupported_depthwise(x, kernel):
    """Reason why the function below, which has a faster gradient, cannot be used, or None."""
    reason = unsupported(x, kernel)
    if reason is None and kernel.shape[1] <= _MAX_COLUMNS:
        return "the gradient of small kernels is fast"
    if reason is None and not _needs_gradient(kernel):
        return "no gradient of the kernel is needed"
    return reason


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel):
        ctx.save_for_backward(x, kernel)
        return _convolution(x, kernel)

    @staticmethod
    def backward(ctx, dy):
        x, kernel = ctx.saved_tensors
        if _needs_plain_backward(dy):
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
    """Gradient of the kernel, a few columns at a time, from the columns of the image that they overlap."""
    size, margin, width = len(kernel), len(kernel) // 2, x.shape[2]
    gradient = torch.empty_like(kernel)
    missing = max(size - x.shape[1], 0)  # rows that the image lacks to be as high as the kernel
    x, dy = F.pad(x, (0, 0, margin, margin, 0, missing)), F.pad(dy, (0, 0, 0, 0, 0, missing))
    for start in range(0, size, _MAX_COLUMNS):
        columns = slice(start, min(start + _MAX_COLUMNS, size))
        overlap = x[:, :, start : columns.stop - 1 + width].contiguous()
        weight = kernel[:, columns].permute(2, 3, 0, 1)
        _, found, _ = torch.ops.aten.convolution_backward(
            dy.permute(0, 3, 1, 2),
            overlap.permute(0, 3, 1, 2),
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


def unsupported_chunks(function, x):
    reason = unsupported(x)
    if reason is None and torch.is_grad_enabled():
        return "a gradient may be needed"
    return reason


def map_chunks(function, x):
    """Apply a function to images (B, H, W, C), in chunks that stay in the cache."""
    step = max(2 * _CHUNK // x[0].numel(), 1)
    if step >= len(x):
        return function(x)
    y = torch.empty_like(x)
    for start in range(0, len(x), step):
        y[start : start + step] = function(x[start : start + step])
    return y
