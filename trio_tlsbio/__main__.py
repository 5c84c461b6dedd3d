"""``python -m trio_tlsbio``: see :mod:`trio_tlsbio.cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
