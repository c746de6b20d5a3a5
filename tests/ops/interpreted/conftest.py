"""Tests of the Triton kernels in Triton's interpreter; `test_triton.py` runs them in a process.

The interpreter must be asked for before triton is imported, and it changes triton for good.
"""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    from triton.runtime import interpreter

    def _with_booleans(name, place):
        """Triton 3.9's interpreter makes numbers of a condition that is spread over a block."""
        access = getattr(interpreter.InterpreterBuilder, name)

        def call(builder, *args):
            args[place].data = args[place].data.astype(bool)
            return access(builder, *args)

        setattr(interpreter.InterpreterBuilder, name, call)

    _with_booleans("create_masked_load", 1)
    _with_booleans("create_masked_store", 2)
