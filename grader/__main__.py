"""`python -m grader`, behind `make grade`, `make hint` and the others."""

import sys

from grader.cli import main

if __name__ == "__main__":
    sys.exit(main())
