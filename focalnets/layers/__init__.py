"""Keras layers. Start with `focal_modulation.py`, which holds the equations of the paper."""
