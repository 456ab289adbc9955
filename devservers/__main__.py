"""`python -m devservers`: see `devservers.cli`."""

import sys

from devservers.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
