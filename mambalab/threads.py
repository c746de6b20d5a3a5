"""How OpenMP's threads wait for each other; torch reads it when it is imported."""

import os

SPINS = "5000"
"""How often a thread looks again before it sleeps; see `be_patient`."""


def be_patient() -> None:
    """Let OpenMP's threads spin for some ten microseconds while they wait, and then sleep; it reads
    this when torch is imported.

    Threads that spin for long make a step several times slower as soon as another process wants a
    core; threads that sleep at once are slow to wake when there is no other. With 5,000 turns a
    training step takes 5 to 7 % more than with threads that never sleep, and 7 to 16 % more than
    with sleepers beside a busy neighbour; those would take 20 % and 330 to 500 % more (GNU's
    OpenMP, two cores; batch 16 of 256, four layers of 192).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
