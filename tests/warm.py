"""Processes of the program without the seconds that each needs to import PyTorch and Lightning.

`python -m tests.warm SOCKET` imports the program once, for all processes of the tests; each that connects is served by
a fork. For every request, a line of JSON, that forks again: the fork becomes a run of the program, or of other Python
code, as a fresh interpreter would. Its number and its exit code come back, a line each.
"""

import atexit
import copy
import gc
import importlib.metadata
import json
import os
import pickle
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import omegaconf.base
import yaml
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.core.default_element import InputDefault, ResultDefault
from omegaconf.base import Metadata

from anomaly_lab.config.files import CONF

ROOT = Path(__file__).parent.parent
PLACE = "ANOMALY_LAB_WARM_PROGRAM"  # the variable that names the socket


def start_program() -> None:
    """Import the program in a process beside this one, with which it ends; those started later find it."""
    listening = socket.socket(socket.AF_UNIX)
    folder = tempfile.mkdtemp()
    listening.bind(place := f"{folder}/socket")
    listening.listen()
    number = listening.fileno()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", f"{number}"], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        pass_fds=[number], stdin=subprocess.PIPE,
    )  # fmt: skip
    listening.close()
    os.environ[PLACE] = place

    @atexit.register
    def end() -> None:
        server.communicate()
        shutil.rmtree(folder)


class WarmProgram:
    """Starts runs of the program, one at a time."""

    def __init__(self, place: str) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(place)
        self._requests = connection.makefile("w")
        self._answers = connection.makefile("r")
        connection.close()  # with the last of its files

    def run(
        self, arguments: Sequence[str], folder: Path, variables: dict[str, str], timeout: float = 600, code: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """What subprocess.run gives and raises, with captured output; of the program or of `python -c code`.

        After `timeout` seconds it is killed, together with the processes that it has started.
        """
        said = [folder / ".stdout", folder / ".stderr"]
        request = {
            "arguments": arguments, "folder": f"{folder}", "variables": variables, "said": [*map(str, said)],
            "code": code,
        }  # fmt: skip
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        number = int(self._answers.readline())
        timer = threading.Timer(timeout, kill, (number,))
        timer.start()
        status = int(self._answers.readline())
        late = not timer.is_alive()
        timer.cancel()
        output, errors = (path.read_text() for path in said)
        for path in said:
            path.unlink()
        if late:
            raise subprocess.TimeoutExpired(arguments, timeout, output, errors)
        return subprocess.CompletedProcess(arguments, status, output, errors)


@cache
def warm_program() -> WarmProgram:
    """The one of this process of the tests."""
    if PLACE not in os.environ:
        start_program()
    return WarmProgram(os.environ[PLACE])


TOGETHER = """
import os, pickle, sys
with open("work", "rb") as file:
    work, processes = pickle.load(file)
children = []
for rank in range(processes - 1):
    if not (child := os.fork()):
        children = []
        break
    children.append(child)
else:
    rank = processes - 1
with open(f"{rank}.answer", "wb") as file:
    pickle.dump(work(rank), file)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def in_processes(count: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work` returns for each rank, in processes that run beside each other."""
    place = folder / "processes"
    place.mkdir()
    (place / "work").write_bytes(pickle.dumps((work, count)))
    done = warm_program().run([], place, {**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, code=TOGETHER)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [pickle.loads((place / f"{rank}.answer").read_bytes()) for rank in range(count)]
    shutil.rmtree(place)
    return answers


def kill(number: int) -> None:
    """A process and its children at one moment."""
    os.kill(number, signal.SIGSTOP)
    for each in (*Path(f"/proc/{number}/task/{number}/children").read_text().split(), number):
        os.kill(int(each), signal.SIGKILL)


def compose_quickly() -> None:
    """Parse every expression and file of a configuration once, merge the same files once, and YAML in C.

    Composing takes a tenth of the time. Hydra's own steps are kept: what they return is remembered, never what a word
    of the command line made of it.
    """
    omegaconf.base.parse = cache(omegaconf.base.parse)
    yaml.SafeLoader = yaml.CSafeLoader
    load, merge, choices = (
        ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list,
        defaults_list._create_interpolation_map,
    )  # fmt: skip
    made: dict[Any, bytes] = {}

    def once(repository: IConfigRepository, key: Any, make: Callable[[], Any]) -> Any:
        sources = tuple(source.path for source in repository.get_sources())
        if any(path.startswith("file://") and path != f"file://{CONF}" for path in sources):
            return make()  # a folder of the user, which a test may change
        if (key, sources) not in made:
            made[key, sources] = pickle.dumps(make())
        return pickle.loads(made[key, sources])

    def load_once(repository: ConfigRepository, config_path: str) -> Any:
        return once(repository, config_path, lambda: load(repository, config_path))

    def merge_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> Any:
        files = tuple((default.config_path, default.package, default.primary) for default in defaults)
        return once(repo, files, lambda: merge(loader, defaults=defaults, repo=repo))

    def map_if_read(overrides: Any, defaults: list[InputDefault], self_added: bool) -> Any:
        read = any(default.is_interpolation() for default in defaults)
        return choices(overrides, defaults, self_added) if read else None

    def metadata_copy(old: Metadata, memo: dict[int, Any]) -> Metadata:
        new = copy.copy(old)
        new.flags, new.resolver_cache = copy.copy(old.flags), copy.deepcopy(old.resolver_cache, memo)
        return new

    Metadata.__deepcopy__ = metadata_copy  # the rest of it are types and names
    ConfigRepository.__deepcopy__ = lambda repository, _: copy.copy(repository)  # which gets another list, if any
    ConfigRepository.load_config = load_once
    ConfigLoaderImpl._compose_config_from_defaults_list = merge_once
    defaults_list._create_interpolation_map = map_if_read


def look_for_plugins_once() -> None:
    """Every trainer of Lightning reads the entry points of all installed packages, which no test changes.

    To be called before Lightning is imported.
    """
    importlib.metadata.entry_points = cache(importlib.metadata.entry_points)


def warm_up() -> None:
    """What every run of the program needs once: modules, the sources of constructors."""
    from hydra import compose, initialize_config_dir
    from numba.core.registry import cpu_target

    from anomaly_lab.config.check import check
    from anomaly_lab.config.resolvers import register

    look_for_plugins_once()
    for module in ("anomaly_lab.training.lifecycle", "anomaly_lab.cli.train", "matplotlib.pyplot"):
        import_module(module)

    compose_quickly()
    register()
    for context in (cpu_target.typing_context, cpu_target.target_context):
        context.refresh()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for method in ("ganomaly", "slides_cae"):  # which the tests start
            check(compose("train", [f"method={method}", "data=folder", "data.root=."]))


def serve(listening: socket.socket) -> dict[str, Any] | None:
    """Fork for each process that connects, until standard input ends. Returns a request in the fork that becomes it."""
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        connection, _ = listening.accept()
        if not os.fork():
            listening.close()
            return answer_requests(connection)
        connection.close()
    return None


def answer_requests(connection: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns it in the fork, and nothing when there are no more."""
    answers = connection.makefile("w")
    for line in connection.makefile("r"):
        if not (number := os.fork()):
            return json.loads(line)
        print(number, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), file=answers, flush=True)
    return None


def become(arguments: list[str], folder: str, variables: dict[str, str], said: list[str], code: str) -> None:
    """Run `python -m anomaly_lab ARGUMENTS`, or `python -c CODE ARGUMENTS`, in this folder with these variables."""
    for descriptor, path in enumerate([os.devnull, *said]):
        os.dup2(os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv[1:] = arguments
    status = 0
    try:
        if code:
            exec(code, {"__name__": "__main__"})
        else:
            runpy.run_module("anomaly_lab", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = int(bool(end.code)) if isinstance(end.code, str) else end.code or 0
    # What an interpreter does at its end, but for taking everything apart, which costs seconds in a fork.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    warm_up()
    gc.freeze()  # a collection in a fork copies every page that it touches
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "warming up started a thread: no fork is safe"
    if request := serve(socket.socket(fileno=int(sys.argv[1]))):
        become(**request)
    os._exit(0)  # what is frozen would be reported as lost
