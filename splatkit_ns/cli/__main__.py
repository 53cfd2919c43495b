"""``python -m splatkit_ns.cli``."""

import sys

from splatkit_ns.cli import main

sys.exit(main())
