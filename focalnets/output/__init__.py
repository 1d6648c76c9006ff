"""Everything that focalnets writes: the lists of its files, and how directories and files are replaced."""
