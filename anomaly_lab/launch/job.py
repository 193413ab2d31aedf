"""What a run does about the processes around it: it ends with its launcher, and it is alone in its folder."""

import os
import signal
import sys

LAUNCHER = "ANOMALY_LAB_LAUNCHER"  # the process of the launcher, told to its jobs


def end_with_launcher() -> bool:
    """Whether a launcher has started this process; then asks the kernel for SIGTERM when that ends. Linux only."""
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is None or sys.platform != "linux":
        return launcher is not None
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM's word to all processes; submitit answers it
    import ctypes  # for this exclusive

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(launcher):  # it went before the kernel was asked
        raise SystemExit(128 + signal.SIGTERM)
    return True
