"""``python -m rcpu``: see cli.py."""

import sys

from rcpu.cli import main

sys.exit(main())
