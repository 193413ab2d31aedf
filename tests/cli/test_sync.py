"""`sync`: each offline run arrives once, whatever happens in between; wandb's own client against a stand-in service."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from anomaly_lab.cli import sync
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.lock import lock
from tests.conftest import variables

KEY = "k" * 40
RECORD = """
import sys, wandb
with wandb.init(mode="offline", project="p", dir=sys.argv[1], settings=wandb.Settings(silent=True)) as run:
    run.log({"x": 1})
"""


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up is none of the test's business."""


class Service:
    """As much of the W&B service as its client needs.

    `uploads` counts the closed file streams of each run, `views` are the workspaces that were saved.
    """

    def __init__(self, status=200, seconds=0.0):
        self.uploads = Counter()
        self.views = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, value, code=200):
                data = json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def do_HEAD(self):
                self.answer({}, 200 if self.path == "/" else 404)

            def do_PUT(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer({})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if "file_stream" in self.path and json.loads(body).get("complete"):
                    service.uploads[self.path.split("/")[-2]] += 1
                if self.path != "/graphql":
                    self.answer({})
                    return
                time.sleep(seconds)
                if status != 200:
                    self.answer({"errors": [{"message": "rejected"}]}, status)
                    return
                asked = json.loads(body)
                self.answer({"data": service.data(asked["query"], asked.get("variables"))})

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def data(self, query, variables):
        if "upsertBucket" in query:
            project = {"id": "cA==", "name": "p", "entity": {"id": "ZQ==", "name": "e"}}
            bucket = {"id": "YQ==", "name": variables["name"], "displayName": "n", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/file"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "YQ==", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "dQ==", "username": "u", "entity": "e", "flags": "{}", "teams": {"edges": []}}}
        if "upsertView" in query:
            self.views.append(variables)
            return {"upsertView": {"view": {"id": "dg==", "name": variables["name"]}, "inserted": True}}
        return {"serverInfo": {"features": []}} if "serverInfo" in query else {}

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def folder_of(root, number):
    run = root / f"name/seed={number}/wandb/offline-run-2026110{number}_000000-id{number}"
    run.mkdir(parents=True)
    (run / f"run-id{number}.wandb").write_bytes(b":W&B")
    return run


@pytest.fixture
def runs(tmp_path):
    return [folder_of(tmp_path / "runs", number) for number in (1, 2, 3)]


class Upload:
    """Counts what it is asked for and marks it; fails for some."""

    def __init__(self, fails=(), error=UserError):
        self.seen = Counter()
        self.fails, self.error = fails, error

    def __call__(self, run):
        self.seen[run] += 1
        if run in self.fails:
            raise self.error("no luck")
        next(run.glob("*.wandb")).with_suffix(".wandb.synced").touch()


@pytest.fixture
def prepared(monkeypatch):
    """Nothing is in the way, and uploads are counted instead of made."""
    upload = Upload()
    monkeypatch.setattr(sync, "obstacle", lambda: None)
    monkeypatch.setattr(sync, "wandb_sync", upload)
    return upload


def test_each_run_is_uploaded_once(runs, prepared, tmp_path, capsys):
    (tmp_path / "runs/name/seed=1/wandb/run-20261101_000000-online").mkdir()
    (tmp_path / "runs/name/seed=1/wandb/latest-run").symlink_to(runs[0])
    sync.main([str(tmp_path / "runs")])
    assert prepared.seen == Counter(runs)
    assert "3 offline runs uploaded" in capsys.readouterr().out
    sync.main([str(tmp_path / "runs")])
    assert prepared.seen == Counter(runs)
    assert "all uploaded already" in capsys.readouterr().out


def test_the_default_folder_is_runs(runs, prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sync.main([])
    assert prepared.seen == Counter(runs)


def test_a_failed_run_does_not_stop_the_others_and_is_tried_again(runs):
    upload = Upload(fails=[runs[1]])
    with pytest.raises(UserError, match=r"1 of 3 runs not uploaded.*id2: no luck"):
        sync.upload_all(runs, upload)
    assert [sync.is_uploaded(run) for run in runs] == [True, False, True]
    again = Upload()
    sync.upload_all(runs, again)
    assert again.seen == Counter([runs[1]])


def test_a_lost_service_ends_it_at_once(runs):
    upload = Upload(fails=[runs[1]], error=sync.ServiceLostError)
    with pytest.raises(UserError, match=r"2 of 3 runs not uploaded.*no luck, 2 runs were left"):
        sync.upload_all(runs, upload)
    assert upload.seen == Counter(runs[:2])


def test_what_another_call_holds_is_left_to_it(runs, capsys):
    upload = Upload()
    with lock(runs[0] / sync.LOCK, None):
        sync.upload_all(runs, upload)
    assert upload.seen == Counter(runs[1:])
    assert "2 offline runs uploaded, 1 by another call" in capsys.readouterr().out


def test_mistakes_and_obstacles_are_told_in_one_line(runs, tmp_path, monkeypatch, capsys):
    with pytest.raises(
        UserError, match=r"expected offline W&B runs \(wandb/offline-run-\*\) below .*empty, found none"
    ):
        sync.main([str(tmp_path / "empty")])
    with pytest.raises(UserError, match=r"expected python -m anomaly_lab sync \[FOLDER\], found 'a b'"):
        sync.main(["a", "b"])
    monkeypatch.setattr(sync, "obstacle", lambda: "no key is configured")
    with pytest.raises(UserError, match=r"nothing uploaded, 3 offline runs wait: no key is configured"):
        sync.main([str(tmp_path / "runs")])
    sync.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m anomaly_lab sync [FOLDER]")


@pytest.fixture
def recorded(warm_program, tmp_path):
    """An offline run."""
    folder = tmp_path / "runs/seed=0"
    folder.mkdir(parents=True)
    assert warm_program.run([str(folder)], tmp_path, variables(tmp_path), code=RECORD).returncode == 0
    (run,) = sync.find(folder)
    return run


def service_at(url, folder):
    """What leads wandb's client to it."""
    return {"HOME": str(folder), "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}


OFFLINE = {"WANDB_MODE": "offline"}  # what a node without a network has in its profile


@pytest.mark.slow
def test_wandbs_own_client_uploads_once(lab, recorded, tmp_path):
    away = OFFLINE | service_at("http://127.0.0.1:9", tmp_path)
    assert "no key is configured" in lab("sync", code=1, **away | {"WANDB_API_KEY": ""}).stderr
    assert "http://127.0.0.1:9 does not answer" in lab("sync", code=1, **away).stderr
    with Service(status=401) as rejecting:
        assert "1 of 1 runs not uploaded" in lab("sync", code=1, **OFFLINE | service_at(rejecting.url, tmp_path)).stderr
    with Service() as service:
        assert "1 offline runs uploaded" in lab("sync", **OFFLINE | service_at(service.url, tmp_path)).stdout
    assert not (tmp_path / "wandb").exists()  # nothing is left where the command was typed
    assert list(service.uploads.values()) == [1]


@pytest.mark.slow
def test_a_killed_upload_goes_on_and_nothing_arrives_twice(lab, recorded, tmp_path):
    with Service(seconds=0.7) as service:
        about = OFFLINE | service_at(service.url, tmp_path)
        with subprocess.Popen(
            [sys.executable, "-m", "anomaly_lab", "sync"], cwd=tmp_path, env=variables(tmp_path, **about),
            stdout=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            deadline = time.monotonic() + 60
            while not (recorded / ".sync.lock").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        while time.monotonic() < deadline:  # what the killed one left behind still uploads, and holds the run
            lab("sync", **about)
            if sync.is_uploaded(recorded):
                break
    assert list(service.uploads.values()) == [1]
