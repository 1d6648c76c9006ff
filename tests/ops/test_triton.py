"""Triton kernels, compared with float64 in Triton's interpreter or on a GPU, and compiled.

Triton chooses between compiler and interpreter when a kernel is defined, once per process. Therefore
`test_kernels_pass_in_interpreter` runs this file again in a new process. The compiler accepts less than the
interpreter, so the kernels are also compiled for a GPU, which does not require a GPU.
"""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from reference import Reference, relative_error

torch = pytest.importorskip("torch", reason="the Triton kernels need torch")
triton = pytest.importorskip("triton", reason="triton is not installed")
if keras.backend.backend() != "torch":
    pytest.skip("the Triton kernels need torch", allow_module_level=True)

from focalnets.ops import triton_kernels  # noqa: E402
from focalnets.ops.triton_kernels import focal_context, unsupported  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
runs_kernels = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no GPU; test_kernels_pass_in_interpreter runs it in a new process",
)
compiles = pytest.mark.skipif(INTERPRETED, reason="the kernels are defined for the interpreter")

# (B, H, W, C), kernel sizes
CASES = {
    "partial blocks and tiles": ((2, 3, 5, 5), (3,)),
    "one level": ((1, 4, 3, 4), (3,)),
    "three levels, one channel": ((1, 3, 2, 1), (3, 5, 7)),
    "four kernels larger than the map": ((1, 1, 2, 2), (3, 5, 7, 9)),
    "one position": ((2, 1, 1, 3), (3,)),
    "shrinking windows": ((1, 3, 2, 8), (5, 3)),
    "more than one group of tiles": ((1, 5, 5, 2), (3,)),
    "several blocks in the elementwise kernels": ((1, 1, 3, 130), (3,)),
}


@pytest.fixture(autouse=True)
def _poisoned():
    """Fill allocated memory with NaN, so that reading an element before it is written is detected."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_tiles(monkeypatch):
    """Several tiles, blocks and groups on maps that are small enough for the interpreter."""
    small = {"ROWS": 2, "COLUMNS": 4, "CHANNELS": 4, "num_warps": 1}
    monkeypatch.setattr(
        triton_kernels, "_tile", lambda channels: small | {"CHANNELS": 64 if channels > 9 else 4}
    )
    monkeypatch.setattr(triton_kernels, "GROUP", 2)


@pytest.fixture(scope="module", autouse=True)
def _quicker_interpreter():
    """Patch `triton.language` once instead of at each call of a helper."""
    patch = pytest.MonkeyPatch()
    if INTERPRETED:
        from triton.runtime import interpreter

        original, done = interpreter._patch_lang, set()

        def patch_once(kernel):
            if id(kernel.__globals__) not in done:
                done.add(id(kernel.__globals__))
                original(kernel)
            return interpreter._LangPatchScope()

        patch.setattr(interpreter, "_patch_lang", patch_once)
    yield
    patch.undo()


def tensors(shape, sizes, dtype=torch.float32, seed=0):
    """Projection (B, H, W, 2C + L + 1), kernels, and gradient of the output, all of order 1."""
    generator = torch.Generator().manual_seed(seed)
    *places, channels = shape

    def random(*shape, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) / scale).to(DEVICE, dtype)

    wide = random(*places, 2 * channels + len(sizes) + 1).requires_grad_()
    kernels = [random(size, size, channels, 1, scale=size).requires_grad_() for size in sizes]
    return wide, kernels, random(*shape)


def run(operation, wide, kernels, d_out):
    """List of the output and the gradients of the projection and of every kernel."""
    channels = d_out.shape[-1]
    context, gates = wide[..., channels : 2 * channels], wide[..., 2 * channels :]
    out = operation(context, gates, kernels)
    return [out.detach(), *torch.autograd.grad(out, [wide, *kernels], d_out)]


def definition(context, gates, kernels):
    """Definition in plain torch, which a test compares with `reference`."""
    total = 0
    for level, kernel in enumerate(kernels):
        weight, margin = kernel.permute(2, 3, 0, 1), len(kernel) // 2
        x = context.permute(0, 3, 1, 2)
        context = torch.nn.functional.conv2d(x, weight, padding=margin, groups=len(weight))
        context = torch.nn.functional.gelu(context.permute(0, 2, 3, 1))
        total = total + context * gates[..., level : level + 1]
    return total + torch.nn.functional.gelu(context.mean((1, 2), keepdim=True)) * gates[..., -1:]


def truth(wide, kernels, d_out):
    exact = [tensor.detach().cpu().double() for tensor in (wide, *kernels)]
    wide, *kernels = (tensor.requires_grad_() for tensor in exact)
    return run(definition, wide, kernels, d_out.cpu().double())


def reference(wide, kernels):
    """Output in float64 NumPy."""
    plain, total = Reference(), 0
    channels = kernels[0].shape[2]
    context, gates = wide[..., channels : 2 * channels], wide[..., 2 * channels :]
    for level, kernel in enumerate(kernels):
        context = plain.gelu(plain.depthwise(context, kernel))
        total = total + context * gates[..., level : level + 1]
    return total + plain.gelu(context.mean((1, 2), keepdims=True)) * gates[..., -1:]


def numpy(tensor):
    return tensor.detach().cpu().double().numpy()


def errors(found, expected):
    return [relative_error(numpy(a), numpy(b)) for a, b in zip(found, expected, strict=True)]


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("case", CASES)
def test_kernels_give_reference_values_and_gradients(case):
    shape, sizes = CASES[case]
    wide, kernels, d_out = tensors(shape, sizes)
    found, expected = run(focal_context, wide, kernels, d_out), truth(wide, kernels, d_out)
    in_numpy = reference(numpy(wide), [numpy(kernel) for kernel in kernels])
    assert relative_error(numpy(expected[0]), in_numpy) < 1e-12
    assert max(errors(found, expected)) < 1e-5


@runs_kernels
@pytest.mark.parametrize(("shape", "size"), [((1, 9, 10, 2), 3), ((1, 2, 3, 33), 3)])
def test_kernels_with_tiles_for_gpu_give_reference_values(shape, size):
    wide, kernels, d_out = tensors(shape, (size,))
    found, expected = run(focal_context, wide, kernels, d_out), truth(wide, kernels, d_out)
    assert max(errors(found, expected)) < 1e-5


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_kernels_in_half_precision_are_close_to_float64(dtype):
    wide, kernels, d_out = tensors((1, 3, 4, 6), (3, 5), dtype)
    found, expected = run(focal_context, wide, kernels, d_out), truth(wide, kernels, d_out)
    assert all(tensor.dtype == dtype for tensor in found)
    # The interpreter truncates to bfloat16, while a GPU rounds to nearest. This doubles the error.
    truncated = INTERPRETED and dtype == torch.bfloat16
    assert max(errors(found, expected)) < (2e-2 if truncated else 1e-2)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
def test_kernel_gradients_equal_finite_differences():
    wide, kernels, d_out = tensors((1, 3, 4, 3), (3, 5))
    _, *gradients = run(focal_context, wide, kernels, d_out)
    values = [numpy(tensor) for tensor in (wide, *kernels)]
    for index, gradient in enumerate(gradients):
        for entry in np.random.default_rng(index).integers(0, gradient.numel(), 6):
            loss = []
            for step in (1e-5, -1e-5):
                nudged = [value.copy() for value in values]
                nudged[index].ravel()[entry] += step
                loss.append(np.sum(reference(nudged[0], nudged[1:]) * numpy(d_out)))
            expected = (loss[0] - loss[1]) / 2e-5
            assert abs(numpy(gradient).ravel()[entry] - expected) < 1e-5 * np.abs(numpy(gradient)).max()


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
def test_kernels_are_deterministic():
    wide, kernels, d_out = tensors((1, 3, 3, 5), (3,))
    first, second = (run(focal_context, wide, kernels, d_out) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
def test_kernels_accept_any_strides():
    """Uses a context that repeats one row and one image, and gates and kernels with reversed strides."""
    kernels = tensors((2, 3, 4, 5), (3,))[1]
    context, gates = tensors((1, 1, 4, 5), ())[2].expand(2, 3, 4, 5), tensors((2, 3, 4, 2), ())[2]
    gates = gates.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    kernels = [kernel.detach().transpose(0, 1).contiguous().transpose(0, 1) for kernel in kernels]
    inputs = [tensor.requires_grad_() for tensor in (context.detach(), gates, *kernels)]
    assert unsupported(inputs[0], inputs[1], inputs[2:]) is None
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in inputs]
    results = []
    for operation, (context, gates, *kernels) in ((focal_context, inputs), (definition, exact)):
        out = operation(context, gates, kernels)
        out_gradient = torch.ones((), dtype=out.dtype, device=out.device).expand(out.shape)  # stride 0
        results.append([out, *torch.autograd.grad(out, [context, gates, *kernels], out_gradient)])
    assert max(errors(*results)) < 1e-5


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
def test_torch_compile_does_not_trace_into_kernels():
    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(wide, kernels):
        context, gates = wide[..., 2:4], wide[..., 4:]
        assert unsupported(context, gates, kernels) is None
        return focal_context(context, gates, kernels)

    wide, kernels, d_out = tensors((1, 2, 3, 2), (3,))
    out = compiled(wide, kernels)
    found = [out, *torch.autograd.grad(out, [wide, *kernels], d_out)]
    assert max(errors(found, truth(wide, kernels, d_out))) < 1e-5
    leaves = [tensor.detach().requires_grad_() for tensor in (wide[..., 2:4], wide[..., 4:])]
    torch.library.opcheck(triton_kernels._forward, (*leaves, kernels))


def test_unsupported_gives_reason(monkeypatch):
    def reason(context=None, gates=None, kernels=None):
        context = torch.ones(1, 4, 5, 3) if context is None else context
        gates = torch.ones(1, 4, 5, 2, dtype=context.dtype) if gates is None else gates
        kernels = [torch.ones(3, 3, 3, 1, dtype=context.dtype)] if kernels is None else kernels
        return unsupported(context, gates, kernels)

    monkeypatch.setattr(triton_kernels, "INTERPRETED", False)
    assert "device 'cpu'" in reason()
    assert "device 'meta'" in reason(torch.ones(1, 4, 5, 3, device="meta"))
    monkeypatch.setattr(triton_kernels, "INTERPRETED", True)
    assert reason() is None
    assert "float64" in reason(torch.ones(1, 4, 5, 3).double())
    assert "bfloat16" in reason(gates=torch.ones(1, 4, 5, 2).bfloat16())
    assert "the list of kernels is empty" in reason(kernels=[])
    assert "[17]" in reason(kernels=[torch.ones(17, 17, 3, 1)])
    assert "[4]" in reason(kernels=[torch.ones(4, 4, 3, 1)])
    assert "empty" in reason(torch.ones(0, 4, 5, 3))
    assert "stride is 20" in reason(torch.ones(1, 3, 4, 5).permute(0, 2, 3, 1))
    monkeypatch.setattr(triton_kernels, "triton", None)
    assert "not installed" in reason()


def test_focal_context_rejects_inconsistent_shapes():
    with pytest.raises(ValueError, match=r"expected \[\(1, 4, 5, 2\), \(3, 3, 3, 1\)\]"):
        focal_context(torch.ones(1, 4, 5, 3), torch.ones(1, 4, 5, 3), [torch.ones(3, 3, 3, 1)])
    with pytest.raises(ValueError, match="expected"):
        focal_context(torch.ones(1, 4, 5, 3), torch.ones(1, 4, 5, 2), [torch.ones(3, 3, 2, 1)])


class _Compile:
    """Replacement of a kernel that compiles it for a GPU instead of launching it."""

    def __init__(self, kernel, compiled):
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, num_warps=4, **constants):
        signature, fixed = {}, {}
        values = dict(zip(self.kernel.arg_names, arguments, strict=False)) | constants
        for place, name in enumerate(self.kernel.arg_names):
            value = values[name]
            signature[name] = "i32" if isinstance(value, int) else "constexpr"
            if isinstance(value, torch.Tensor):
                short = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
                signature[name] = f"*{short[value.dtype]}"
            elif name in constants or value in (None, 1):  # Triton makes ones constant
                signature[name], fixed[(place,)] = "constexpr", value
        source = triton.compiler.ASTSource(self.kernel, signature, fixed)
        target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
        binary = triton.compile(source, target=target, options={"num_warps": num_warps})
        self.compiled.append((self.kernel.__name__, len(binary.asm["cubin"])))


@pytest.mark.slow
@compiles
@pytest.mark.parametrize(
    ("shape", "sizes", "dtype"),
    [((2, 9, 10, 96), (3, 3), torch.bfloat16), ((1, 1, 1, 1), (3,), torch.float32)],
    ids=str,
)
def test_kernels_compile_for_gpu(shape, sizes, dtype, monkeypatch):
    compiled = []
    for name in ("_level", "_aggregate", "_gates_gradient", "_map_gradient", "_weight_gradient"):
        monkeypatch.setattr(triton_kernels, name, _Compile(getattr(triton_kernels, name), compiled))
    channels, levels = shape[-1], len(sizes)
    wide = torch.empty(*shape[:3], 2 * channels + levels + 1, dtype=dtype)
    kernels = [torch.empty(size, size, channels, 1, dtype=dtype) for size in sizes]
    context, gates = wide[..., channels : 2 * channels], wide[..., 2 * channels :]
    out, mean = torch.ops.focalnets.focal_context(context, gates, kernels)
    torch.ops.focalnets.focal_context_backward(out, context, gates, mean, kernels)
    assert len(compiled) == 4 * levels + 3
    assert all(size > 1000 for _, size in compiled)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="runs in the interpreter already")
def test_kernels_pass_in_interpreter():
    here = pathlib.Path(__file__)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(here)]
    done = subprocess.run(command, cwd=here.parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 16, "tests of the kernels were skipped"
