"""The class property `presets` of `FocalNetBackbone` and `FocalNetImageClassifier`, as in KerasHub."""


class Presets:
    """Descriptor: names that `from_preset` accepts -> dict with architecture, source, data and accuracy.

    >>> from focalnets import FocalNetImageClassifier
    >>> FocalNetImageClassifier.presets["focalnet_tiny_srf_imagenet1k"]["published_top1"]
    82.1
    """

    def __get__(self, instance, owner):
        from dataclasses import asdict

        from focalnets.presets.checkpoints import CHECKPOINTS

        return {name: asdict(row) for name, row in CHECKPOINTS.items()}
