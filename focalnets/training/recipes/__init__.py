"""One short file an experiment. The docstring says the command, and what came of it where it was run."""
