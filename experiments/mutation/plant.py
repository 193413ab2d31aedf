"""Plant mistakes in a copy of a checkout, one at a time, and see whether its tests notice: CSV out.

    python experiments/mutation/plant.py CHECKOUT [--faults NAME ...] [--all-tests] [--check] > CHECKOUT.csv

A mistake is found by what its line says (`faults.toml`), so that checkouts may differ in their folders. The tests that
noticed run once more at the end, without any mistake: one that fails then has noticed nothing.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

FAULTS = Path(__file__).with_name("faults.toml")
NOT_COPIED = {".venv", ".git", "runs", "dist", "build"}  # of the checkout itself
LIMIT = 1200  # seconds of a run of tests
# An editable installation stands on the path of every Python of the environment. Only the copy is to be there, for its
# plugins of Hydra too, which are looked for along the whole path.
ONLY_THE_COPY = """
import os, sys
from pathlib import Path
sys.path[:] = [p for p in sys.path if p == os.environ["PLANTED"] or not Path(p, "anomaly_lab", "__init__.py").is_file()]
"""


class Fault(NamedTuple):
    """A mistake as it is planted."""

    name: str
    path: Path  # relative to the checkout
    old: str
    new: str
    tests: list[str]  # files, relative to the checkout, the likeliest first


def find(about: dict, checkout: Path) -> Fault | str:
    """Where a mistake goes; or one line that says why it goes nowhere."""
    texts = {path: path.read_text() for path in sorted((checkout / "anomaly_lab").rglob("*.py"))}
    counts = []
    for old, new in about["change"]:
        places = [path for path, text in texts.items() for _ in range(text.count(old))]
        counts.append(len(places))
        if len(places) == 1:
            path, after = places[0], texts[places[0]].replace(old, new)
            break
    else:
        return f"{about['name']}: expected a line once, found it {counts} times: {about['change'][0][0]!r}"
    tests = [path for stem in about["tests"] for path in sorted((checkout / "tests").rglob(f"{stem}.py"))]
    if not tests:
        return f"{about['name']}: expected test files, found none of {', '.join(about['tests'])}"
    try:
        compile(after, path, "exec")
    except SyntaxError as error:
        return f"{about['name']}: expected Python, found {error}"
    return Fault(about["name"], path.relative_to(checkout), old, new, [str(t.relative_to(checkout)) for t in tests])


class Copy:
    """A copy of a checkout in which tests can run."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout = checkout
        self.root = folder / "copy"
        self.temporary = folder / "tests"
        compiled = shutil.ignore_patterns("__pycache__", ".*_cache")
        shutil.copytree(
            checkout,
            self.root,
            ignore=lambda at, names: compiled(at, names) | (NOT_COPIED if at == str(checkout) else set()),
        )
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(ONLY_THE_COPY)
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PLANTED": str(self.root),
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(self.root)]),
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        where = "import anomaly_lab, hydra_plugins; print(anomaly_lab.__file__, *hydra_plugins.__path__, sep='\\n')"
        found = self._run([sys.executable, "-c", f"import sys; sys.path.remove(''); {where}"]).stdout.split()
        if found != [str(self.root / "anomaly_lab" / "__init__.py"), str(self.root / "hydra_plugins")]:
            raise SystemExit(f"expected the copy in {self.root} to be imported, found {found}")
        self.planted = 0

    def plant(self, fault: Fault) -> None:
        """Change the file; its time is one that it never had, so that nothing compiled is mistaken for it."""
        path = self.root / fault.path
        path.write_text(path.read_text().replace(fault.old, fault.new))
        self.planted += 1
        os.utime(path, (path.stat().st_atime, (self.checkout / fault.path).stat().st_mtime + 10 * self.planted))

    def restore(self, fault: Fault) -> None:
        """The file as it was, its time included."""
        shutil.copy2(self.checkout / fault.path, self.root / fault.path)

    def test(self, tests: list[str], stop: bool = True) -> list[str]:
        """Run fast tests; those that fail, or `timeout`."""
        command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-m", "not slow", "-p", "no:cacheprovider"]
        try:
            done = self._run([*command, f"--basetemp={self.temporary}", *(["-x"] if stop else []), *tests])
        except subprocess.TimeoutExpired:
            return ["timeout"]
        failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        if bool(failed) != (done.returncode in {1, 2}) or done.returncode > 2:
            raise SystemExit(f"expected pytest to run, found exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return failed

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )


def main() -> int:
    """0 where all mistakes could be planted and every test that noticed passes without them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--faults", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--all-tests", action="store_true", help="the whole fast suite where the named files pass")
    parser.add_argument("--check", action="store_true", help="only say where each mistake would go")
    arguments = parser.parse_args()
    checkout = arguments.checkout.resolve()
    known = {about["name"]: about for about in tomllib.loads(FAULTS.read_text())["fault"]}
    if unknown := set(arguments.faults or known) - set(known):
        parser.error(f"--faults: expected some of {', '.join(known)}, found {', '.join(sorted(unknown))}")
    found = [find(about, checkout) for name, about in known.items() if name in (arguments.faults or known)]
    faults = [fault for fault in found if isinstance(fault, Fault)]
    if arguments.check:
        for fault in faults:
            print(fault.name, fault.path, *fault.tests)
    if lost := [line for line in found if isinstance(line, str)]:
        print(*lost, sep="\n", file=sys.stderr)
    if lost or arguments.check:
        return len(lost) and 1

    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["fault", "caught", "by", "seconds"])
    noticed: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(checkout, Path(folder).resolve())
        for fault in faults:
            copy.plant(fault)
            start = time.perf_counter()
            failed = copy.test(fault.tests)
            if not failed and arguments.all_tests:
                failed = copy.test(["tests"])
            seconds = time.perf_counter() - start
            copy.restore(fault)
            caught = bool(failed) and failed != ["timeout"]
            if caught:
                noticed.setdefault(failed[0], []).append(fault.name)
            table.writerow([fault.name, "yes" if caught else "no", failed[0] if failed else "", f"{seconds:.0f}"])
            sys.stdout.flush()
        innocent = copy.test(list(noticed), stop=False) if noticed else []
    for test in innocent:
        names = ", ".join(noticed.get(test, ["?"]))
        print(f"{names}: expected a test that passes without the mistake, found {test} failing", file=sys.stderr)
    return 1 if innocent else 0


if __name__ == "__main__":
    sys.exit(main())
