"""Rules about sizes that the networks and the cost formulas share. Does not import Keras."""


def per_stage(name, value, depths):
    """One value per stage, from an int or a sequence.

    Raises:
        ValueError: if the sequence does not have one value per stage.

    >>> from focalnets.layers.geometry import per_stage
    >>> per_stage("focal_levels", 2, depths=(2, 2, 6))
    (2, 2, 2)
    """
    values = (value,) * len(depths) if isinstance(value, int) else tuple(value)
    if len(values) != len(depths):
        raise ValueError(
            f"{name} has {len(values)} values for {len(depths)} stages (depths={tuple(depths)}). Give one "
            "integer, or one value per stage."
        )
    return values


def stem_kernel_size(patch_size, overlap_embed):
    """Kernel size of the stem: `patch_size`, or 2 * patch_size - 1 (at least 3) if patches overlap.

    >>> from focalnets.layers.geometry import stem_kernel_size
    >>> stem_kernel_size(4, overlap_embed=True)
    7
    """
    return max(2 * patch_size - 1, 3) if overlap_embed else patch_size


def kernel_sizes(focal_levels, focal_window, focal_factor):
    """Sizes of the depthwise kernels of a block, first level first.

    >>> from focalnets.layers.geometry import kernel_sizes
    >>> kernel_sizes(focal_levels=3, focal_window=3, focal_factor=2)
    (3, 5, 7)
    """
    return tuple(focal_window + focal_factor * level for level in range(focal_levels))


def receptive_fields(sizes):
    """Side of the receptive field of each level after chained convolutions, in positions of the feature map.

    >>> from focalnets.layers.geometry import receptive_fields
    >>> receptive_fields((3, 5, 7))
    (3, 7, 13)
    """
    fields, side = [], 1
    for size in sizes:
        side += size - 1
        fields.append(side)
    return tuple(fields)
