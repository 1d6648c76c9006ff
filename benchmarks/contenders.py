"""Contenders of `bench_models.py`: a row of `CONTENDERS` and a small function for each.

A function takes a `Job` and returns (step, facts). `step()` predicts or trains once on the whole batch and
returns when the result is available. `facts` can have `parameters`, `extra_parameters` (known additional
ones), `macs` (multiply-accumulates per image, only for another network) and a `note`. A function that does
not support a job raises an exception, whose message is printed.

focalnets and keras are imported inside functions, because the environments of other libraries lack them.
"""

import dataclasses
import functools
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np

BOTH = ("inference", "training")
LEARNING_RATE = WEIGHT_DECAY = 1e-4


@dataclasses.dataclass(frozen=True)
class Job:
    """Work of all contenders.

    Attributes:
        network: str. Name in `focalnets.ARCHITECTURES`.
        architecture: dict. Row of that name.
        parameters, macs: int. Parameters and multiply-accumulates per image of the network.
        task: str. "inference" or "training".
        batch, size: int. Number of images, and side of each in pixels.
        folder: str. Temporary folder that contenders share.
    """

    network: str
    architecture: dict
    parameters: int
    macs: int
    task: str
    batch: int
    size: int
    folder: str

    @property
    def image_shape(self):
        return (self.size, self.size, self.architecture["channels"])

    def arrays(self):
        """Normalized images (B, H, W, channels), float32, and labels (B,), equal for all contenders."""
        generator = np.random.default_rng(0)
        images = generator.standard_normal((self.batch, *self.image_shape), dtype="float32")
        return images, generator.integers(0, self.architecture["num_classes"], self.batch)


@dataclasses.dataclass(frozen=True)
class Contender:
    """Row of `CONTENDERS`.

    Attributes:
        prepare: function from a `Job` to (step, facts).
        python: str. Environment of `--python`.
        tasks: tuple of str. Supported tasks.
        network: str or None. The only supported network. Defaults to `None`, any.
    """

    prepare: Callable
    python: str
    tasks: tuple = BOTH
    network: str | None = None


# === Keras, on the backend that the parent process has set ===


def keras_steps(net, job, from_logits=True, optimizer=None):
    import keras

    images, labels = job.arrays()
    if job.task == "inference":
        step = functools.partial(net.predict_on_batch, images)
    else:
        net.compile(
            optimizer or keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
            keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
            metrics=None,  # by default, a FocalNetImageClassifier also computes the accuracy
        )

        def step():
            return float(net.train_on_batch(images, labels))

    return step, {"parameters": sum(math.prod(v.shape) for v in net.trainable_variables)}


def focalnets(job, dtype="float32", **changes):
    """focalnets with the optimizer of `focalnets train`."""
    from focalnets import FocalNetBackbone, FocalNetImageClassifier
    from focalnets.training.adamw import AdamW

    if dtype != "float32":
        refuse_slow_bfloat16()
    shape = (None, None, job.architecture["channels"])
    backbone = FocalNetBackbone(**job.architecture["backbone"], image_shape=shape, dtype=dtype, **changes)
    net = FocalNetImageClassifier(backbone, job.architecture["num_classes"], dtype=dtype)
    step, facts = keras_steps(net, job, optimizer=AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY))
    return step, {**facts, **({} if dtype == "float32" else {"note": dtype})}


def focalnets_engine(job, runtime):
    """Export of focalnets, as written by `focalnets predict --engine`."""
    from focalnets import FocalNetBackbone, FocalNetImageClassifier
    from focalnets.deployment.export import write_export
    from focalnets.prediction.engines import ExportEngine

    backbone = FocalNetBackbone(**job.architecture["backbone"], image_shape=job.image_shape)
    net = FocalNetImageClassifier(backbone, job.architecture["num_classes"])
    folder = pathlib.Path(job.folder, f"ours-{runtime}")
    folder.mkdir()
    write_export(net, folder)
    images, _ = job.arrays()
    engine = ExportEngine(folder, runtime)
    return functools.partial(engine.run, images), {"parameters": net.count_params()}


def plain_keras(job):
    from plain_keras import build

    return keras_steps(
        build(job.architecture["backbone"], job.image_shape, job.architecture["num_classes"]), job
    )


def tutorial(job):
    import keras
    from tutorial_tensorflow import TutorialNet

    net = TutorialNet()
    net(keras.Input(job.image_shape))  # creates the variables, which are counted
    return keras_steps(net, job, from_logits=False)


# === torch ===


def refuse_slow_bfloat16():
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError("this processor does not support bfloat16")


def torch_steps(model, job, channels_last=False, compiled=False, bfloat16=False, **facts):
    """Step of a bare loop. The images are tensors in the required layout before the measurement starts."""
    import torch

    images, labels = job.arrays()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    labels = torch.from_numpy(labels)
    model = model.to(memory_format=layout)
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if bfloat16:
        refuse_slow_bfloat16()
        facts["note"] = "; ".join(filter(None, (facts.get("note"), "autocast to bfloat16")))
    narrow = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=bfloat16)
    model.train(job.task == "training")
    run = torch.compile(model) if compiled else model

    def predict():
        with torch.inference_mode(), narrow():
            return run(images)

    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def train():
        optimizer.zero_grad(set_to_none=True)
        with narrow():
            loss = torch.nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return predict if job.task == "inference" else train, facts


def import_timm():
    """Import timm, also if the compiled part of torchvision does not fit torch: timm does not need it."""
    try:
        import timm
    except RuntimeError:  # "operator torchvision::nms does not exist"
        import torch

        global _declared  # the declarations exist as long as this object
        _declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        import timm
    return timm


def timm_focalnet(job):
    """timm's model of `job.network`, and facts. For `tutorial`, its blocks have one more norm, `norm1`."""
    timm = import_timm()
    backbone = job.architecture["backbone"]
    if job.network != "tutorial":
        return timm.create_model(job.network, drop_path_rate=backbone.get("drop_path_rate", 0.0)), {}
    from timm.models.focalnet import FocalNet
    from torch import nn

    model = FocalNet(
        num_classes=10,
        embed_dim=256,
        depths=(2, 3, 2),
        focal_levels=(2, 2, 2),
        focal_windows=(3, 3, 3),
        proj_drop_rate=0.1,
        drop_path_rate=0.0,
    )
    for stage in model.layers:
        for block in stage.blocks:
            block.mlp.drop1.p = 0.0  # the tutorial has dropout after the stem instead
    model.stem.norm = nn.Sequential(model.stem.norm, nn.Dropout(0.1))
    return model, {"note": "one more norm in each block", "extra_parameters": norm1_parameters(job)}


def norm1_parameters(job):
    """Number of parameters in norms before the modulation, which the tutorial lacks."""
    backbone = job.architecture["backbone"]
    return sum(2 * backbone["embed_dim"] * 2**stage * depth for stage, depth in enumerate(backbone["depths"]))


def timm_eager(job, **how):
    model, facts = timm_focalnet(job)
    return torch_steps(model, job, **how, **facts)


def timm_compiled(job):
    # An empty cache, so that `warmup_s` always includes the compilation.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(pathlib.Path(job.folder, "inductor"))
    return timm_eager(job, channels_last=True, compiled=True)


def transformers(job):
    from torch import nn
    from transformers import FocalNetConfig, FocalNetForImageClassification

    backbone = job.architecture["backbone"]
    overlap = backbone.get("overlap_embed", False)
    if overlap and backbone.get("patch_size", 4) != 4:
        raise ValueError(f"transformers has no overlapping stem of patch size {backbone['patch_size']}")
    stages = len(backbone["depths"])
    config = FocalNetConfig(
        image_size=job.size,
        patch_size=backbone.get("patch_size", 4),
        num_channels=job.architecture["channels"],
        embed_dim=backbone["embed_dim"],
        depths=list(backbone["depths"]),
        focal_levels=[backbone.get("focal_levels", 2)] * stages,
        focal_windows=[backbone.get("focal_window", 3)] * stages,
        use_conv_embed=overlap,
        hidden_dropout_prob=backbone.get("dropout_rate", 0.0),
        drop_path_rate=backbone.get("drop_path_rate", 0.0),
        use_layerscale="layer_scale_init" in backbone,
        use_post_layernorm=backbone.get("norm_placement") == "post",
        use_post_layernorm_in_modulation=backbone.get("norm_after_modulation", False),
        normalize_modulator=backbone.get("normalize_modulator", False),
        num_labels=job.architecture["num_classes"],
    )

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = FocalNetForImageClassification(config)

        def forward(self, images):
            return self.net(images).logits

    facts = {}
    if backbone.get("norm_placement") == "mlp_only":  # it has both norms, and one dropout rate
        note = "one more norm and dropout in each block"
        facts = {"note": note, "extra_parameters": norm1_parameters(job)}
    return torch_steps(Logits(), job, **facts)


# === Attention networks of similar size, from timm ===


def timm_swin(job):
    """Swin with the same widths and depths, which has windowed attention instead of focal modulation.

    For the published tiny networks at 224 pixels, it is swin_tiny_patch4_window7_224.
    """
    import_timm()
    from timm.models.swin_transformer import SwinTransformer

    backbone = job.architecture["backbone"]
    width, patch = backbone["embed_dim"], backbone.get("patch_size", 4)
    side = job.size // patch
    window = max(window for window in range(1, 8) if side % window == 0)
    model = SwinTransformer(
        img_size=job.size,
        patch_size=patch,
        in_chans=job.architecture["channels"],
        num_classes=job.architecture["num_classes"],
        embed_dim=width,
        depths=backbone["depths"],
        num_heads=tuple(max(1, width // 32) * 2**stage for stage in range(len(backbone["depths"]))),
        window_size=window,
        drop_path_rate=backbone.get("drop_path_rate", 0.0),
    )
    return torch_steps(
        model, job, macs=counted_macs(model, job), note=f"Swin of these widths, window {window}"
    )


def timm_vit(job):
    """ViT with the closest number of parameters, and the patch size with the closest cost."""
    timm = import_timm()
    widths = {"tiny": 192, "small": 384, "base": 768}

    def parameters(name):
        return 12 * 12 * widths[name] ** 2  # twelve blocks with 12 * width^2 parameters each

    def distance(found, wanted):
        return abs(math.log(found / wanted))

    name = min(widths, key=lambda name: distance(parameters(name), job.parameters))
    patch = min(
        (patch for patch in range(2, job.size) if job.size % patch == 0),
        key=lambda patch: distance((job.size // patch) ** 2 * parameters(name), job.macs),
    )
    model = timm.create_model(
        f"vit_{name}_patch16_224",
        img_size=job.size,
        patch_size=patch,
        in_chans=job.architecture["channels"],
        num_classes=job.architecture["num_classes"],
        drop_path_rate=job.architecture["backbone"].get("drop_path_rate", 0.0),
    )
    return torch_steps(model, job, macs=counted_macs(model, job), note=f"ViT-{name}, patch {patch}")


def counted_macs(model, job):
    """Multiply-accumulates per image, from torch's counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # the counter does not support the fused CPU kernel
    height, width, channels = job.image_shape
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(torch.zeros(1, channels, height, width))
    for module in fused:
        module.fused_attn = True
    return counter.get_total_flops() // 2


# === Runtimes, with timm's model ===


def export(job):
    """Export timm's model to ONNX. Runs in its own process, so that workers do not import torch."""
    import torch

    model, _ = timm_focalnet(job)
    images = torch.from_numpy(job.arrays()[0]).permute(0, 3, 1, 2).contiguous()
    torch.onnx.export(model.eval(), (images,), pathlib.Path(job.folder, "model.onnx"), dynamo=True)


def exported(job):
    path = pathlib.Path(job.folder, "model.onnx")
    if not path.exists():
        script = pathlib.Path(__file__).with_name("bench_models.py")
        command = [
            sys.executable,
            script,
            "--worker",
            "export",
            "--job",
            pathlib.Path(job.folder, "job.json"),
        ]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise ValueError(f"timm's model cannot be exported: {ran.stderr.strip().splitlines()[-1]}")
    return path


def onnxruntime(job):
    import onnxruntime

    path = exported(job)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(job.arrays()[0].transpose(0, 3, 1, 2))
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images}), {"note": "export of timm's model"}


def openvino(job):
    import openvino

    path = exported(job)
    # On CPUs with bfloat16, OpenVINO would use it by default.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.ascontiguousarray(job.arrays()[0].transpose(0, 3, 1, 2))
    return lambda: model(images), {"note": "export of timm's model"}


# === The table ===

CONTENDERS = {
    "focalnets-torch": Contender(focalnets, "torch"),
    "focalnets-jax": Contender(focalnets, "jax"),
    "focalnets-tensorflow": Contender(focalnets, "tensorflow"),
    "focalnets-torch-remat": Contender(
        functools.partial(focalnets, rematerialize=True), "torch", tasks=("training",)
    ),
    "focalnets-torch-bfloat16": Contender(functools.partial(focalnets, dtype="mixed_bfloat16"), "torch"),
    "focalnets-openvino": Contender(
        functools.partial(focalnets_engine, runtime="openvino"), "torch", tasks=("inference",)
    ),
    "focalnets-onnxruntime": Contender(
        functools.partial(focalnets_engine, runtime="onnxruntime"), "torch", tasks=("inference",)
    ),
    "plain-keras-torch": Contender(plain_keras, "torch"),
    "plain-keras-jax": Contender(plain_keras, "jax"),
    "plain-keras-tensorflow": Contender(plain_keras, "tensorflow"),
    "tutorial-tensorflow": Contender(tutorial, "tensorflow", tasks=("training",), network="tutorial"),
    "timm": Contender(timm_eager, "peers"),
    "timm-channels-last": Contender(functools.partial(timm_eager, channels_last=True), "peers"),
    "timm-bfloat16": Contender(functools.partial(timm_eager, channels_last=True, bfloat16=True), "peers"),
    "timm-compiled": Contender(timm_compiled, "peers"),
    "transformers": Contender(transformers, "transformers"),
    "onnxruntime": Contender(onnxruntime, "peers", tasks=("inference",)),
    "openvino": Contender(openvino, "peers", tasks=("inference",)),
    "timm-swin": Contender(timm_swin, "peers"),
    "timm-vit": Contender(timm_vit, "peers"),
}
