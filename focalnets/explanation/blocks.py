"""The blocks that a user asks for. Free of Keras."""

from focalnets.names import unknown_name


def chosen_blocks(stages, block=None, stage=None):
    """Names of the blocks to draw: one, those of one stage, or the last of every stage.

    Args:
        stages: List of lists of str. Names of the blocks of each stage.
        block: str. Name of the block to draw. Defaults to None.
        stage: int. Stage to draw all blocks of, counted from 1. Defaults to None.

    Raises:
        ValueError: if there is no such block or stage.

    >>> from focalnets.explanation.blocks import chosen_blocks
    >>> chosen_blocks([["stage1_block1", "stage1_block2"], ["stage2_block1"]])
    ['stage1_block2', 'stage2_block1']
    """
    if block is not None:
        names = [name for names in stages for name in names]
        if block not in names:
            raise ValueError(unknown_name("block", block, names))
        return [block]
    if stage is None:
        return [names[-1] for names in stages]
    if not 1 <= stage <= len(stages):
        raise ValueError(f"There is no stage {stage}. The network has {len(stages)} stages.")
    return stages[stage - 1]
