"""A trained classifier as a file that runs without Keras."""
