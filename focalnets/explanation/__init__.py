"""Gates and modulators of a network as values, maps and figures."""
