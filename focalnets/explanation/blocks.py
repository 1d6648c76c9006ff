"""The blocks that a user asks for. Free of Keras."""

from focalnets.names import unknown_name


def chosen_blocks(names, block=None, stage=None):
    """Names of the blocks to draw: one, those of one stage, or the last of every stage.

    Raises:
        ValueError: naming what there is, if there is no such block or stage.

    >>> from focalnets.explanation.blocks import chosen_blocks
    >>> chosen_blocks(["stage1_block1", "stage1_block2", "stage2_block1"])
    ['stage1_block2', 'stage2_block1']
    """
    if block is not None:
        if block not in names:
            raise ValueError(unknown_name("block", block, names))
        return [block]
    by_stage = {}
    for name in names:
        by_stage.setdefault(int(name.removeprefix("stage").split("_")[0]), []).append(name)
    if stage is None:
        return [blocks[-1] for blocks in by_stage.values()]
    if stage not in by_stage:
        raise ValueError(f"There is no stage {stage}; there are {len(by_stage)}.")
    return by_stage[stage]
