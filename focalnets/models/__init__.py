"""Whole networks: backbone, classifier, and the preprocessing that belongs to a checkpoint."""
