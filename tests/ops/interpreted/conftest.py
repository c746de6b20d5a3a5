"""Tests of the Triton kernels in Triton's interpreter; `test_triton.py` runs them in a process.

The interpreter must be asked for before triton is imported, and it changes triton for good.
"""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
