"""Who takes part in `bench_models.py`: a row of `CONTENDERS` and a small function each.

A function takes a `Job` and returns (step, facts): `step()` predicts or trains once on the whole batch and
does not return before it has the result; `facts` may hold `parameters`, `extra_parameters` (known to be
more than ours), `macs` (multiply-accumulates an image, only where the net is none of ours) and a `note`.
To leave a job out, raise: the message is shown.

Nothing here imports focalnets or keras outside the functions: a peer's environment has neither.
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
    """What all contenders are to do.

    Attributes:
        net: a name in `focalnets.ARCHITECTURES`.
        architecture: its row as a dict.
        parameters, macs: of that net, macs an image of this size.
        task: "inference" or "training".
        batch, size: images, and the side of each in pixels.
        folder: a temporary one that all contenders share.
    """

    net: str
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
        """Normalised images (B, H, W, channels) float32 and labels (B,): the same for everyone."""
        generator = np.random.default_rng(0)
        images = generator.standard_normal((self.batch, *self.image_shape), dtype="float32")
        return images, generator.integers(0, self.architecture["num_classes"], self.batch)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A row.

    Attributes:
        prepare: the function, see above.
        python: which interpreter of `--python` runs it.
        tasks: what it can do.
        net: the only net that it can be, or None for any.
    """

    prepare: Callable
    python: str
    tasks: tuple = BOTH
    net: str | None = None


# === Keras, on whichever backend the parent has set ===


def keras_steps(net, job, from_logits=True, optimizer=None):
    import keras

    images, labels = job.arrays()
    if job.task == "inference":
        step = functools.partial(net.predict_on_batch, images)
    else:
        net.compile(
            optimizer or keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
            keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
            metrics=None,  # a classifier of ours would compute the accuracy, too
        )

        def step():
            return float(net.train_on_batch(images, labels))

    return step, {"parameters": sum(math.prod(v.shape) for v in net.trainable_variables)}


def focalnets(job, dtype="float32", **changes):
    """With the optimizer that `focalnets train` uses."""
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
    """An export of ours, as `focalnets predict --engine` makes it."""
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
    net(keras.Input(job.image_shape))  # makes its variables, which are counted
    return keras_steps(net, job, from_logits=False)


# === torch ===


def refuse_slow_bfloat16():
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError("this processor does not compute with bfloat16")


def torch_steps(model, job, channels_last=False, compiled=False, bfloat16=False, **facts):
    """Bare loops: the images are tensors in the wanted layout before the clock starts."""
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
    """timm, also beside a torchvision whose compiled part does not fit the torch: timm needs none of it."""
    try:
        import timm
    except RuntimeError:  # "operator torchvision::nms does not exist"
        import torch

        global _declared  # the declarations live as long as this object
        _declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        import timm
    return timm


def timm_focalnet(job):
    """(timm's model of `job.net`, facts). The tutorial's twin has a norm more in each block, `norm1`."""
    timm = import_timm()
    backbone = job.architecture["backbone"]
    if job.net != "tutorial":
        return timm.create_model(job.net, drop_path_rate=backbone.get("drop_path_rate", 0.0)), {}
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
            block.mlp.drop1.p = 0.0  # the tutorial has no dropout there, but one after its stem
    model.stem.norm = nn.Sequential(model.stem.norm, nn.Dropout(0.1))
    return model, {"note": "a norm more in each block", "extra_parameters": norm1_parameters(job)}


def norm1_parameters(job):
    """Of the norms before modulation, which the tutorial's net has not."""
    backbone = job.architecture["backbone"]
    return sum(2 * backbone["embed_dim"] * 2**stage * depth for stage, depth in enumerate(backbone["depths"]))


def timm_eager(job, **how):
    model, facts = timm_focalnet(job)
    return torch_steps(model, job, **how, **facts)


def timm_compiled(job):
    # A cache of its own, so that `warmup_s` is a compilation whatever this machine ran before.
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
    if backbone.get("norm_placement") == "mlp_only":  # it always has both norms, and one dropout rate
        note = "a norm and a dropout more in each block"
        facts = {"note": note, "extra_parameters": norm1_parameters(job)}
    return torch_steps(Logits(), job, **facts)


# === Attention, of like size, from timm ===


def timm_swin(job):
    """Swin with the same widths and depths: windowed attention in place of focal modulation.

    For the published tiny nets at 224 px this is swin_tiny_patch4_window7_224.
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
    """The plain vision transformer nearest to the net in parameters, with the patches nearest in cost."""
    timm = import_timm()
    widths = {"tiny": 192, "small": 384, "base": 768}

    def parameters(name):
        return 12 * 12 * widths[name] ** 2  # twelve blocks, each 12 times the square of the width

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
    """Multiply-accumulates an image by torch's counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # the counter does not know the fused kernel on a CPU
    height, width, channels = job.image_shape
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(torch.zeros(1, channels, height, width))
    for module in fused:
        module.fused_attn = True
    return counter.get_total_flops() // 2


# === Runtimes, on timm's model ===


def export(job):
    """Write timm's model to `exported(job)`; in a process of its own, so that torch is not in the way."""
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
            raise ValueError(f"timm's net was not exported: {ran.stderr.strip().splitlines()[-1]}")
    return path


def onnxruntime(job):
    import onnxruntime

    path = exported(job)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(job.arrays()[0].transpose(0, 3, 1, 2))
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images}), {"note": "timm's net exported"}


def openvino(job):
    import openvino

    path = exported(job)
    # Where a CPU has units for it OpenVINO would compute in bfloat16.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.ascontiguousarray(job.arrays()[0].transpose(0, 3, 1, 2))
    return lambda: model(images), {"note": "timm's net exported"}


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
    "tutorial-tensorflow": Contender(tutorial, "tensorflow", tasks=("training",), net="tutorial"),
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
