"""``python -m splatkit_ns.cli``."""

import sys

from splatkit_ns.cli import main

if __name__ == "__main__":
    sys.exit(main())
