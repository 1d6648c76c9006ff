"""Tables of architectures and trained weights, and the preset directory in which a network is stored."""
