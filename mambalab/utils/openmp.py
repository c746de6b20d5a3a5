"""How long idle OpenMP threads spin before they sleep; torch reads it when it is imported."""

import os

GOMP_SPINCOUNT = "5000"
"""Value of the environment variable: turns of the wait loop, together about 10 microseconds."""


def limit_openmp_spin() -> None:
    """Set GOMP_SPINCOUNT so that idle OpenMP threads spin for about 10 microseconds, then sleep.

    Must run before torch is imported. The user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT wins.

    Measured with a training step of four layers of 192, batch 16 of 256, on two cores (GNU's
    OpenMP). Alone, it takes 4 to 7 % longer than with threads that never sleep, those that sleep
    at once 19 to 27 % longer. Beside a busy neighbour, it takes 7 to 16 % longer than with threads
    that sleep at once, those that never sleep 330 to 500 % longer.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)
