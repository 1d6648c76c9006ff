"""Keras layers. Start reading at `focal_modulation.py`: the paper's equations are there."""
