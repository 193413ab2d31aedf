"""CPU seconds until help and mistakes are answered, best of five: `python experiments/answers/run.py`, CSV out."""

import resource
import subprocess
import sys

COMMANDS = (
    ["--help"], ["predict", "--help"], ["method=cea"], ["data.categry=screw"], ["data.category=scrw"],
    ["data.patches=0"], ["trainer.max_epochs=-1"], ["method.network.latent_size=0"],
    ["data=demo", "data.image_size=200"],
)  # fmt: skip

print("command,cpu_seconds")
for command in COMMANDS:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "anomaly_lab", *command], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"{' '.join(command)},{min(seconds):.2f}")
