"""The command line: one file per verb, which parses and prints. The jobs are functions of the other parts."""
