"""The exception for mistakes of a user, and its form for a full disk."""

import errno
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

LISTED = 8  # keys that a message lists
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SHORT = re.compile(r"\d+ requested and \d+ written|PytorchStreamWriter failed|unexpected pos \d+|No space left")


class UserError(ValueError):
    """A mistake in the input, in one line: what was expected, what was found, what to do.

    The command line prints the message without a traceback and exits with 1. Any other exception is a bug in the
    program and keeps its traceback.
    """


def full_disk(error: BaseException | None, path: Path | None = None) -> UserError | None:
    """The user error for an exception that a full disk has caused, however wrapped; None for other exceptions."""
    reason, file, cause = "", None, error
    while cause is not None and not isinstance(cause, UserError):
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            reason, file = os.strerror(cause.errno), cause.filename
            break
        if not reason and SHORT.search(str(cause)):  # NumPy and torch write from C and pass on no number
            reason = " ".join(str(cause).split())[:80]
        cause = cause.__cause__ or cause.__context__
    if not reason:
        return None
    return UserError(
        f"{path or file or 'a file'}: expected room on the disk, found none ({reason}); earlier files are unchanged; "
        "free some space, and the same command continues"
    )


def nearest(found: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest valid name, or nothing."""
    match = get_close_matches(found, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def without_dashes(word: str) -> UserError:
    """The error for `--key=value`."""
    return UserError(f"{word}: expected key=value, found dashes before it; write {word.lstrip('-')}, without dashes")


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """The error for a dotted key that does not exist: the nearest one of its section first, then some of them all."""
    section, _, found = key.rpartition(".")
    names = [name for name in dict.fromkeys(known) if not name.startswith("_")]
    match = get_close_matches(found, names, n=1, cutoff=0.6)
    hint = f"did you mean {f'{section}.' if section else ''}{match[0]}? " if match else ""
    rest = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    where = f"of {section}" if section else "at the top"
    return UserError(f"{key}: no such key; {hint}keys {where}: {', '.join(names[:LISTED]) or 'none'}{rest}")
