"""`python -P -m unified_latents.service.stepper FD`: the engine process of a parent."""

from __future__ import annotations

import sys

from unified_latents.service.stepper.process import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
