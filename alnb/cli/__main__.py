"""``python -m alnb.cli``."""

import sys

from alnb.cli import main

sys.exit(main())
