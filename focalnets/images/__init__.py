"""One image: the format, orientation and bit depth of a file, its uint8 pixels, and what changes them."""
