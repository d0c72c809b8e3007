"""Some of these tests run under Triton's interpreter, in the process that test_fused.py starts."""

from __future__ import annotations

import os

INTERPRETED = ["test_contenders.py", "test_tune.py"]

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else INTERPRETED
