"""Tensor operations. They know only tensors: no layers, no models."""
