"""Putting a trained network to work: predictions and their evaluation."""
