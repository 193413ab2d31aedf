"""What the machine has."""

import os
import sys
from contextlib import suppress


def memory_of_machine() -> int:
    """Bytes of memory, free or not; where nobody says it, as many as can be counted."""
    with suppress(ValueError, OSError, AttributeError):  # Windows has no sysconf
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return sys.maxsize
