"""`count_macs` against the operation counter of torch. torch only."""

import numpy as np
import pytest
from small_networks import shrunk

from focalnets import ARCHITECTURES, count_macs
from focalnets.ops import dispatch
from focalnets.presets.load import build_architecture

torch = pytest.importorskip("torch", reason="uses the operation counter of torch")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_count_macs_equals_counter_of_torch(name, monkeypatch):
    monkeypatch.setattr(dispatch, "_setting", False)  # matrix multiplications of oneDNN are not counted
    row = shrunk(name)
    net = build_architecture(row)
    x = np.zeros((1, row.image_size, row.image_size, row.channels), "float32")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    gating = 0  # torch does not count elementwise operations: L + 1 gates, and query * modulator
    size, channels = -(-row.image_size // net.backbone.patch_size), 8
    for depth, levels in zip(net.backbone.depths, net.backbone.focal_levels, strict=True):
        gating += depth * size * size * channels * (levels + 2)
        size, channels = -(-size // 2), 2 * channels
    assert count_macs(row) == counter.get_total_flops() // 2 + gating
