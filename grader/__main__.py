"""`python -m grader`, behind `make grade`, `make hint` and the others."""

import sys

if __name__ == "__main__":
    try:
        from grader.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # before there was anything to end
        sys.exit(130)
