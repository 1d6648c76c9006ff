"""What the network looks at: gates and modulators as values, as maps, as images."""
