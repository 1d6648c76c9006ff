"""Decoding of image files to uint8 pixels, and changes to the pixels of images."""
