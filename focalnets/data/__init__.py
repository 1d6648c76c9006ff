"""Labeled images: from the name of a data set, folder or archive to batches of uint8 arrays."""
