"""Export of a trained classifier to a file that runs without Keras."""
