"""Everything that focalnets writes goes through here: which files are ours, and how they are replaced."""
