"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake or a missing thing outside the code: bad option, absent file, full disk.

    The message is one line that says what is wrong, where, and what to do. The command line prints
    it without a traceback and exits with a non-zero status; as a library it is an ordinary
    exception.
    """


class NotApplicableError(UserError):
    """Settings that are right each by itself and make no sense together.

    One run with them is refused; a sweep leaves that combination out and says so.
    """
