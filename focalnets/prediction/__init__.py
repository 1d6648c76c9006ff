"""Prediction with a trained network, and evaluation on labeled images."""
