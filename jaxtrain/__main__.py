"""`python -m jaxtrain`: the command line."""

from __future__ import annotations

import sys

from jaxtrain.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
