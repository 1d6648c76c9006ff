"""`python -m focalnets`, the same as the `focalnets` script."""

import sys

from focalnets.cli import main

if __name__ == "__main__":
    sys.exit(main())
