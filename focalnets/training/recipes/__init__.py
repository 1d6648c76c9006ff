"""One short file an experiment. The docstring says the command, the machine, the time and the result."""
