"""How long stores, servers and jobs may take on a machine that is slow, or very busy."""

import math
import os

from mambalab.errors import UserError

VARIABLE = "MAMBALAB_PATIENCE"


def patient(seconds: float) -> float:
    """Lengthen a wait, in seconds, by the factor that the environment gives (unset or empty = 1).

    Raises:
        UserError: the factor is no positive number.
    """
    given = os.environ.get(VARIABLE) or "1"
    try:
        factor = float(given)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise UserError(f"{VARIABLE}={given}: that is a factor for waits, a number above 0")
    return seconds * factor
