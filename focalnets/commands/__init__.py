"""Verbs of the command line, one file each. They print. Other parts of the package do the work."""
