"""``python -m edgeattn.training``."""

import sys

from edgeattn.training import main

if __name__ == "__main__":
    sys.exit(main())
