"""``python -m genmeter COMMAND``, where the command ``genmeter`` is not on the path."""

import sys

from genmeter.cli import main

if __name__ == "__main__":
    sys.exit(main())
