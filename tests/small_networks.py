"""Small networks with the options and numbers of stages of the published ones."""

import dataclasses

from focalnets import ARCHITECTURES


def shrunk(name):
    """An architecture of `ARCHITECTURES` with few channels, blocks and classes."""
    row = ARCHITECTURES[name]
    depths = tuple(min(depth, 2) for depth in row.backbone["depths"])
    backbone = {**row.backbone, "embed_dim": 8, "depths": depths}
    return dataclasses.replace(row, backbone=backbone, num_classes=7, image_size=50)
