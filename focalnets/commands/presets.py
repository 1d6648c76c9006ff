"""`focalnets presets`."""

import json

from focalnets.presets.architectures import ARCHITECTURES
from focalnets.presets.checkpoints import CHECKPOINTS, bundled_directory
from focalnets.presets.cost import count_macs, count_parameters


def run(arguments):
    """Print one row per architecture and checkpoint. Sizes are computed without building a network."""
    rows = [
        {
            "name": name,
            "parameters": count_parameters(architecture),
            "macs": count_macs(architecture),
            "image_size": architecture.image_size,
            "num_classes": architecture.num_classes,
            "channels": architecture.channels,
            "checkpoints": [key for key, row in CHECKPOINTS.items() if row.architecture == name],
        }
        for name, architecture in ARCHITECTURES.items()
    ]
    if arguments.as_json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'name':<20}{'parameters':>14}{'GMACs':>10}{'pixels':>8}{'classes':>9}")
    for row in rows:
        print(
            f"{row['name']:<20}{row['parameters']:>14,}{row['macs'] / 1e9:>10.3f}"
            f"{row['image_size']:>8}{row['num_classes']:>9}"
        )
    print("\npublished weights, with their published top-1 accuracy or our own on the test images:")
    print(f"{'name':<34}{'data':<14}{'top-1':>6}  source")
    for name, row in CHECKPOINTS.items():
        top1 = row.published_top1 or row.measured_top1
        source = row.source or "no longer available"
        if bundled_directory(name) is not None:
            source = "ships with focalnets"
        print(f"{name:<34}{row.data:<14}{f'{top1:.1f}' if top1 else '':>6}  {source}")
