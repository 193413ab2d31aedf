"""The exception for mistakes of a user, and its form for a full disk."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(ValueError):
    """A mistake in the input, in one line: what was expected, what was found, what to do.

    The command line prints the message without a traceback and exits with 1. Any other exception is a bug in the
    program and keeps its traceback.
    """


def full_disk(error: BaseException, path: Path | None = None) -> UserError | None:
    """The user error for an exception that a full disk has caused, however wrapped; None for other exceptions."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return UserError(
                f"{path or cause.filename or 'a file'}: expected room on the disk, found none ({cause.strerror}); "
                "earlier files are unchanged; free some space, and the same command continues"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def nearest(found: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest valid name, or nothing."""
    match = get_close_matches(found, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
