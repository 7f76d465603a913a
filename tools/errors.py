"""Errors that a user can mend, told in one line."""


class UserError(Exception):
    """A mistake in what the user gave; its message says what was given, what is expected and what to do.

    `run.py` prints the message alone, without a traceback, and exits with status 2.
    """
