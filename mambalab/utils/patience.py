"""How long stores, servers and jobs may take on a machine that is slow, or very busy."""

import math
import os

from mambalab.errors import UserError

VARIABLE = "MAMBALAB_PATIENCE"


def patient(seconds: float) -> float:
    """Lengthen a wait, in seconds, by the factor that the environment gives (unset or empty = 1).

    Raises:
        UserError: the factor is no number from 0.1 to 1000.
    """
    given = os.environ.get(VARIABLE) or "1"
    try:
        factor = float(given)
    except ValueError:
        factor = math.nan
    if not 0.1 <= factor <= 1000:
        raise UserError(f"{VARIABLE}={given}: a factor for waits must be a number from 0.1 to 1000")
    return seconds * factor
