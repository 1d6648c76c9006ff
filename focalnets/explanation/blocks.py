"""Selection of the blocks to explain. Does not import Keras."""

from focalnets.names import unknown_name


def chosen_blocks(stages, block=None, stage=None):
    """Names of the blocks to explain: one block, all blocks of a stage, or the last block of each stage.

    Args:
        stages: list of lists of str. Names of the blocks of each stage.
        block: str. Name of the only block to explain. Defaults to `None`.
        stage: int. Stage whose blocks are all explained, counted from 1. Defaults to `None`.

    Raises:
        ValueError: if the block or stage does not exist.

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
        raise ValueError(f"Stage {stage} does not exist. Expected a stage from 1 to {len(stages)}.")
    return stages[stage - 1]
