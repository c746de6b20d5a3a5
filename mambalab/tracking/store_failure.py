"""What is wrong with an MLflow store: a line for people, and whether it answers at all."""

from dataclasses import dataclass

from mambalab.errors import UserError
from mambalab.utils.secrets import hide_password

MAX_REASON_CHARS = 200
_NO_ANSWER = {"ConnectionError", "Timeout", "ConnectTimeout", "ReadTimeout"}  # of requests


@dataclass(frozen=True)
class StoreFailure:
    """Why a store did not take what was sent.

    Attributes:
        reason: one line for people, without passwords.
        is_silent: whether the store does not answer, so that no other request would get through.
    """

    reason: str
    is_silent: bool = False


NO_ANSWER = StoreFailure("it does not answer", is_silent=True)
ERRORS_ONLY = StoreFailure("it answers with nothing but errors: its database may be down")
TOO_SLOW = StoreFailure("it is too slow")


class SilentStoreError(UserError):
    """The store does not answer: no use to send it another run."""


def failure_of(error: BaseException) -> StoreFailure:
    """Tell what an exception of MLflow's, or of its drivers, says about the store."""
    cause: BaseException | None = error
    while cause is not None:
        kind = type(cause)
        if kind.__module__ == "requests.exceptions":
            if kind.__name__ in _NO_ANSWER:
                return NO_ANSWER
            if kind.__name__ == "RetryError":  # a status such as 500, again and again
                return ERRORS_ONLY
        cause = cause.__cause__ or cause.__context__
    text = hide_password(str(error)).strip() or type(error).__name__
    if isinstance(error, UserError):  # ours is one line, with its advice at the end
        return StoreFailure(" ".join(text.splitlines()))
    return StoreFailure(text.splitlines()[0][:MAX_REASON_CHARS])
