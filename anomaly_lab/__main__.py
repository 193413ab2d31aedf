"""The command line: `python -m anomaly_lab [command] key=value ...`.

A first word without `=` and dash is a command; otherwise the configuration is trained and tested. Each command imports
what it needs when it is called, so that help and error messages appear at once.
"""

import gc
import signal
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from anomaly_lab import __version__
from anomaly_lab.cli.help import COMMANDS
from anomaly_lab.cli.help import main as print_help
from anomaly_lab.core.console import never_fail_to_print, print_messages

OF_RUNS = set(COMMANDS) - {"data", "methods", "select"}  # compose no configuration


def main() -> None:
    """Run the program; a user's mistake ends in one line and exit code 1, Ctrl-C in one line and exit code 130."""
    never_fail_to_print()
    print_messages()
    try:
        Path.cwd()
    except FileNotFoundError:
        sys.exit("error: expected a working folder, found that it was deleted; cd to one that exists")
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    is_job = not first or first.startswith("-") or bool(set("=~") & set(first))
    try:
        start(first, is_job)
    except KeyboardInterrupt as interruption:
        resumed = "; the same command continues from the last checkpoint, if there is one" if is_job else ""
        print(str(interruption) or f"interrupted{resumed}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def start(first: str, is_job: bool) -> None:
    """Train and test, or run the command that `first` names."""
    if first == "--version":
        print(f"anomaly_lab {__version__}")
        return
    from anomaly_lab.core.messages import mistakes_in_one_line

    if first == "help" or (is_job and {"--help", "-h"} & set(sys.argv)):
        with mistakes_in_one_line():
            print_help(sys.argv[1:])
        return
    if not is_job and first not in COMMANDS:
        of_two = [command for command in ("data check", "data cache") if first in command.split()]
        near = of_two or get_close_matches(first, (*COMMANDS, "data check", "data cache"), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        sys.exit(f"error: expected a command ({', '.join(COMMANDS)}) or key=value, found {first!r}{hint}")
    if first in OF_RUNS and any(word.startswith("--config-dir") for word in sys.argv):
        sys.exit(
            f"error: {first}: expected no --config-dir, because a run folder holds its whole configuration; leave it "
            "out, trust=PACKAGE allows classes of your own"
        )

    with mistakes_in_one_line():
        if is_job:
            gc.disable()  # composing makes many small objects; collecting them is a sixth of an answer's time
            import_module("anomaly_lab.cli.train").main()
        else:
            import_module(f"anomaly_lab.cli.{first}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
