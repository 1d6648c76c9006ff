"""Other people's weights <-> networks of ours: one table of names, read in both directions."""
