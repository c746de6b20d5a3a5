"""The one exception that means "the user can mend this", and how messages quote."""


class UserError(Exception):
    """A mistake or a missing thing outside the code: bad option, absent file, full disk.

    The message is one line that says what is wrong, where, and what to do. The command line prints
    it without a traceback and exits with a non-zero status; as a library it is an ordinary
    exception.
    """


def escaped(text: str) -> str:
    """`text` with whatever does not print, such as an escape sequence, written as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(text: str) -> str:
    """`text` in quotes as a message shows it: what prints as it is, the rest escaped."""
    inside = escaped(text)
    return f'"{inside}"' if "'" in text and '"' not in text else f"'{inside}'"


class NotApplicableError(UserError):
    """Settings that are right each by itself and make no sense together.

    One run with them is refused; a sweep leaves that combination out and says so.
    """


def first_line(error: BaseException) -> str:
    """First line of what an exception says, printable and without its full stop; its type if it
    says nothing."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    line = next(iter(text.strip().splitlines()), "").rstrip(". ")
    return escaped(line) or type(error).__name__
