"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """A mistake in the input, told in one line: what was expected, what was found, what to do now.

    The command line prints the message without a traceback and exits with 1. Everything else that is
    raised is a mistake in the program and keeps its traceback.
    """
