"""Tensor operations. This package does not import layers or models."""
