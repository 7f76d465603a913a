"""Errors that a user can mend, told in one line."""


class UserError(Exception):
    """A mistake in what the user gave; its message says what was given, what is expected and what to do.

    `run.py` prints the message alone, without a traceback, and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader hands on what a worker process raised as the last line of its traceback.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].strip())
