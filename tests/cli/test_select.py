"""`select`: its arguments, what it refuses, and the whole on a tiny data set."""

import json
import math
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra.errors import ConfigCompositionException

from anomaly_lab.cli import select as module
from anomaly_lab.cli.select import (
    by_category,
    figure_text,
    looked_at,
    main,
    next_steps,
    parse,
    refuse_several,
    refuse_without_kinds,
    replaced,
    show,
    strongest_controls,
)
from anomaly_lab.core.errors import UserError
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.samples import Sample
from anomaly_lab.launch.jobs import Job
from anomaly_lab.launch.portfolio import Entry
from anomaly_lab.report.photo_counts import Photos
from anomaly_lab.report.ranking import Contender
from anomaly_lab.report.selection import number
from anomaly_lab.runs.collect import Key, Run
from tests.conftest import stand_in, write_image
from tests.report.test_ranking import LABELS, NOISE, painted
from tests.report.test_ranking import contender as scored

CAE = "anomaly_lab.methods.cae.CAE"


def test_arguments_are_its_own_or_those_of_a_run(tmp_path):
    words = ["minutes=5", "data=folder", "labels=false", "method=padim,spade", "padim.ridge=0.1"]
    words.append(f"--config-dir={tmp_path}")
    assert parse(words) == (5.0, "default", False, ["padim", "spade"], ["data=folder", "padim.ridge=0.1"], tmp_path)
    assert parse(["data.root=x=y"]) == (20.0, "default", True, [], ["data.root=x=y"], None)


@pytest.mark.parametrize(
    "word", ["data.labelled_abnormal=0.1", "+data.labelled_abnormal=5", "data.labelled_abnormal=a/"]
)
def test_labelled_photos_are_refused_because_all_methods_must_know_the_same(word):
    value = word.partition("=")[2]
    said = (
        f"because it compares methods that learn from good photos alone, found {value}; .* method=NAME data.labelled_"
    )
    with pytest.raises(UserError, match=f"^select: expected no data.labelled_abnormal=, {said}abnormal={value}$"):
        parse(["data=folder", word, "method=cavga"])
    assert parse(["data.labelled_abnormal=null"]).words == ["data.labelled_abnormal=null"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("minutes=soon", "minutes: expected a number above 0, found 'soon'"),
        ("minutes=0", "minutes: expected a number above 0, found '0'"),
        ("minutes=nan", "minutes: expected a number above 0"),
        ("minutes=inf", "minutes: expected a number above 0"),
        ("labels=maybe", "labels: expected true or false, found 'maybe'"),
        ("photos/", "found 'photos/'"),
        ("callbacks=default", "select: expected no callbacks=, because it compares runs of its own"),
        ("callbacks.synthetic.copies=1", "select: expected no callbacks.synthetic.copies="),
        ("name=mine", "select: expected no name="),
        ("rerun=true", "select: expected no rerun="),
        ("portfolio=defualt", "portfolio: expected one of default, found 'defualt'; did you mean 'default'"),
    ],
)
def test_a_bad_argument_is_one_line(word, message):
    with pytest.raises(UserError, match=message):
        main(["data=folder", word])


def test_categories_are_ranked_together():
    assert by_category(["a=b", "data.category=x,y", "c=d,e"]) == [
        ["a=b", "data.category=x", "c=d,e"], ["a=b", "data.category=y", "c=d,e"],
    ]  # fmt: skip
    assert by_category(["data.category=all"]) == [["data.category=all"]]


@pytest.mark.parametrize(
    ("word", "as_list"),
    [
        ("data.good_photos=10,20", ""),
        ("method.width=8,16", ""),
        ("padim.backbone.layers=layer1,layer2", " (as a list: padim.backbone.layers=[layer1,layer2])"),
        ("+method.kinds=turn,flip", " (as a list: +method.kinds=[turn,flip])"),
        ("data.good=ok,fine", " (as a list: data.good=[ok,fine])"),
        ("trust=a,b", " (as a list: trust=[a,b])"),
        ("data=folder,csv", ""),
        ("seed=range(1,3)", ""),
    ],
)
def test_several_values_of_a_key_are_for_a_sweep_which_is_said_whole(word, as_list):
    words = ["data.root=my photos", "data.category=bar,nut", word]
    key, _, value = word.partition("=")
    said = f"{key}: expected one value, found {value!r}{as_list}; select ranks methods for one"
    with pytest.raises(UserError) as error:
        refuse_several(words)
    assert str(error.value).startswith(said)
    command = str(error.value).partition(" in a sweep: ")[2]
    assert shlex.split(command) == ["python", "-m", "anomaly_lab", "-m", "method=A,B", *words]
    with pytest.raises(UserError, match=" -m --config-dir=mine method=A,B 'data.root=my photos' "):
        refuse_several(words, Path("mine"))
    with pytest.raises(UserError, match="one at a time; when it has named some, compare the values in a sweep: python"):
        main(words)


def test_lists_and_paths_with_commas_are_one_value():
    refuse_several(["data.region=1,2,30,40", "data.good=[ok,fine]", "data.root=a,b", "data.category=bar,nut", "x=a b="])


def test_photos_are_those_of_all_data_sets_and_held_out_ones_are_good(tmp_path, monkeypatch):
    def samples(*labels):
        return [Sample(tmp_path / f"{i}.png", None, label, "x", str(i)) for i, label in enumerate(labels)]

    def examined(resolved):
        held_out, test = samples(*[0] * resolved["held_out"]), samples(0, 0, 0, 1)
        return stand_in(DataModule, train_samples=samples(*[0] * 8), held_out_samples=held_out, test_samples=test), ""

    read = []
    monkeypatch.setattr("anomaly_lab.cli.data_check.examined", examined)
    monkeypatch.setattr("anomaly_lab.cli.data_check.refuse_unreadable", lambda data, resolved: read.append(data))
    config = {"held_out": 2, "data": {"category": "bar"}}
    other = {"held_out": 3, "data": {"category": "nut"}}
    assert looked_at([config, other]) == {
        "bar": Photos(good=8, held_out=2, test_good=3, defective=1),
        "nut": Photos(good=8, held_out=3, test_good=3, defective=1),
    }
    assert len(read) == 2
    with pytest.raises(UserError, match="expected at least 10 good photos of bar, found 9"):
        looked_at([config, {**config, "held_out": 1}])


def contender(name, controls, tmp_path):
    run = Run(tmp_path / name, name, Key("select", name, "folder", "bar", "0"), "done", controls=controls)
    return Contender(name, [run])


def test_the_strongest_control_of_each_measure_runs_too_unless_it_has(tmp_path):
    figures = {"brightness": {"image_auroc": 0.6}, "sharpness": {"image_auroc": 0.9}, "pca": {}}
    there = [contender("control_brightness", {}, tmp_path), contender("padim", figures, tmp_path)]
    assert strongest_controls(there) == ["control_sharpness"]
    assert strongest_controls([*there, contender("control_sharpness", {}, tmp_path)]) == []
    assert strongest_controls(there[:1]) == []
    assert strongest_controls([*there, Contender("control_sharpness", state="failed")]) == ["control_sharpness"]
    two = contender("padim", {"brightness": {"image_auroc": 1.0}, "pca": {"image_auroc": 0.7}}, tmp_path)
    two.runs += contender("padim", {"brightness": {"image_auroc": 0.0}, "pca": {"image_auroc": 0.7}}, tmp_path).runs
    assert strongest_controls([two]) == ["control_pca"]  # 0.7 on average, not 0.5
    two.runs[0].controls["untrained"] = {"image_auroc": 1.0}  # no method of its own
    assert strongest_controls([two]) == ["control_pca"]
    figures |= {"mean_image": {"image_auroc": 0.5, "pixel_aupro": 0.8}, "pca": {"pixel_aupro": 0.7}}
    assert strongest_controls(there) == ["control_sharpness", "control_mean_image"]
    figures["mean_image"]["image_auroc"] = 0.95
    assert strongest_controls(there) == ["control_mean_image"]  # once
    figures["mean_image"]["image_auroc"] = math.nan
    assert strongest_controls(there) == ["control_sharpness", "control_mean_image"]


@pytest.mark.parametrize(
    "short", [["experiment=quick"], ["budget.epochs=3", "budget.schedule=cosine", "data.batch_size=8"]]
)
def test_the_commands_that_follow_train_without_the_short_budget(tmp_path, short):
    best = contender("cae", {}, tmp_path)
    own, typed = ["method=cae", *short], ["data=folder", "data.root=my photos", "method.backbone=offline"]
    (what, train), (_, predict), (_, export) = next_steps(best, own, typed, CAE)
    assert what == "train for as long as the method's file says"
    assert train == "python -m anomaly_lab method=cae data=folder 'data.root=my photos' method.backbone=offline"
    assert predict == f"python -m anomaly_lab predict run={tmp_path / 'cae'} source=new_photos/"
    assert export.endswith("format=onnx")
    assert next_steps(best, own[:1], typed, CAE)[0] == ("train with its pictures and curves", train)
    mine = "data.batch_size=4 experiment=quick budget.epochs=7"  # what was typed stays
    assert next_steps(best, own, [*typed, *mine.split()], CAE)[0] == (
        "train with its pictures and curves", f"{train} {mine}",
    )  # fmt: skip
    best.runs += contender("other", {}, tmp_path).runs  # of another data set
    steps = next_steps(best, own, typed, CAE)
    assert steps[0][1] == train.replace("anomaly_lab", "anomaly_lab -m", 1)
    assert [what for what, _ in steps[1:]] == [
        "look at new photos of bar", "make one file of bar that needs no anomaly_lab",
    ] * 2  # fmt: skip
    assert [command.split()[4] for _, command in steps[1::2]] == [f"run={tmp_path / name}" for name in ("cae", "other")]


def test_the_commands_that_follow_are_of_this_method_and_know_ones_own_files_and_packages(tmp_path):
    best = contender("padim", {}, tmp_path)
    words = ["data=folder", "cae.width=7", "padim.ridge=0.1", "trust=[mine]"]
    (_, train), (_, predict), (_, export) = next_steps(
        best, ["method=padim"], words, CAE, tmp_path / "my files", ["mine", "other"]
    )
    assert train == f"python -m anomaly_lab '--config-dir={tmp_path}/my files' method=padim data=folder " \
        "method.ridge=0.1 'trust=[mine]'"  # fmt: skip
    assert predict.endswith(" source=new_photos/ trust=mine,other")
    assert export.endswith(" format=onnx trust=mine,other")


@pytest.mark.parametrize(
    ("method", "ending"),
    [("cae.CAE", "anomaly_lab"), ("spade.Spade", None), ("cnn_dictionary.CNNDictionary", None),
     ("texture_inspection.TextureInspection", None), ("variation_model.VariationModel", ", if its settings allow it")],
)  # fmt: skip
def test_no_command_exports_a_method_that_cannot_be_one_file(tmp_path, method, ending):
    best = contender(method, {}, tmp_path)
    steps = [what for what, _ in next_steps(best, [], ["data=folder"], f"anomaly_lab.methods.{method}")]
    assert ending is None or steps.pop().endswith(ending)
    assert steps == ["train with its pictures and curves", "look at new photos"]


def test_an_answer_to_another_question_is_not_replaced_silently(tmp_path):
    path = tmp_path / "select.json"
    assert replaced(path, ["data=folder"]) == []
    path.write_text('{"asked": ["data=folder", "minutes=3", "labels=false"]}')
    assert replaced(path, ["minutes=20", "data=folder", "labels=false"]) == []
    assert replaced(path, ["minutes=3", "data=folder"]) == ["data=folder", "minutes=3", "labels=false"]


class Parts:
    """What `main` calls, in place of runs: methods with scores, and what they were asked for."""

    def __init__(self, folder, sets):
        self.folder, self.sets = folder, sets
        self.classes = dict[str, str]()  # of methods that are not a CAE
        self.asked, self.words = [], []

    def entries(self, candidates, words_of, compose, spread):
        self.words += [spread(candidate.words) for candidate in candidates.values()]
        own = {"runs_dir": f"{self.folder}", "name": "select", "trust": "mine"}

        def jobs(name):
            method = {"_target_": self.classes.get(name, CAE)}
            configs = [{**own, "method": method, "data": {"category": each}} for each in ("bar", "nut")]
            return [Job((), name, self.folder / name, config, 0, "key") for config in configs]

        return [Entry(name, each, jobs(name), "", tuple(words_of(each)[0])) for name, each in candidates.items()]

    def contend(self, found, launcher, config, seconds, photos, began, labels):
        self.asked.append(([entry.name for entry in found], seconds, photos))
        strength = {"cae": 0.5, "padim": 3, "control_pca": 0, "control_mean_image": 0}
        contenders = [scored(entry.name, NOISE + strength[entry.name] * LABELS, 1, self.folder) for entry in found]
        for each in contenders:
            each.runs[0].controls |= {"pca": {"image_auroc": 0.9}, "mean_image": {"pixel_aupro": 0.8}}
        return contenders


@pytest.fixture
def parts_of_main(tmp_path, monkeypatch):
    """With a portfolio of two methods and 8 + 2 good photos, 5 good and 4 defective ones in the test; 90 s pass."""
    double = Parts(tmp_path / "runs", {"bar": Photos(4, 1, 3, 1), "nut": Photos(4, 1, 2, 3)})
    painted(tmp_path / "runs", 3.0)
    monkeypatch.setattr("anomaly_lab.launch.portfolio.contend", double.contend)
    monkeypatch.setattr("anomaly_lab.launch.portfolio.entries", double.entries)
    monkeypatch.setattr(module, "looked_at", lambda configs: double.sets)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=iter([0.0, 90.0, 0.0]).__next__))
    (tmp_path / "select").mkdir()
    (tmp_path / "select/tiny.yaml").write_text(
        "cae: {words: [method=cae], seconds: 1, per_photo: 0.01}\n"
        "padim: {words: [method=padim], seconds: 1, per_photo: 0.01}\n"
    )
    return double


def selected(tmp_path, *words):
    main([f"--config-dir={tmp_path}", "portfolio=tiny", "data=folder", "minutes=5", f"data.root={tmp_path}", *words])
    return json.loads((tmp_path / "runs/select/bar+nut/select.json").read_text())


def test_methods_have_the_time_less_a_reserve_and_the_strongest_controls_have_all_they_need(
    tmp_path, parts_of_main, capsys
):
    found = selected(tmp_path, "data.category=bar,nut", "data.batch_size=4")
    assert parts_of_main.asked == [
        (["cae", "padim"], 60 * 5 - 10 - 2 * 2 * 15, 33),
        (["control_pca", "control_mean_image"], math.inf, 33),
    ]
    assert [[words[-1] for words in spread] for spread in parts_of_main.words] == [
        ["method=cae"], ["method=padim"], ["method.kind=pca"], ["method.kind=mean_image"],
    ]  # fmt: skip
    assert {"name=select", "data.held_out=0.2", "callbacks=select"} <= set(parts_of_main.words[0][0])
    photos = {"title": "bar, nut", "good": 10, "held_out": 2, "test_good": 5, "defective": 4, "minutes": 1.5}
    assert found["photos"] == photos
    assert found["basis"] == "labels"
    assert [row["name"] for row in found["ranking"]] == ["padim", "cae", "control_pca", "control_mean_image"]
    train = found["commands"][0]["command"]
    assert " method=padim data=folder " in train
    assert train.endswith(" data.category=bar,nut data.batch_size=4")
    assert found["commands"][1]["command"].endswith(" source=new_photos/ trust=mine")  # as it was typed
    assert (tmp_path / "runs/select/bar+nut/select.html").is_file()
    printed = capsys.readouterr().out
    assert "the strongest of the other controls run too: control_pca, control_mean_image\n" in printed
    assert "Take padim: " in printed


def test_a_damaged_result_is_a_line_and_no_rank(tmp_path, parts_of_main, capsys, monkeypatch):
    def contend(*asked):
        contenders = parts_of_main.contend(*asked)
        for each in contenders:
            for run in each.runs[: each.name == "cae"]:
                run.images, run.scores = run.images[:-2], run.scores[:-2]
        return contenders

    monkeypatch.setattr("anomaly_lab.launch.portfolio.contend", contend)
    found = selected(tmp_path)
    assert [each["name"] for each in found["others"]] == ["cae"]
    printed = capsys.readouterr().out
    assert "\nfailed: cae (scores.csv: expected the 60 test photos of the other methods, found 58; delete " in printed


@pytest.mark.parametrize("when", [1, 2], ids=["methods", "controls"])
def test_an_interruption_says_that_the_same_command_goes_on(tmp_path, parts_of_main, monkeypatch, when):
    def contend(found, *rest):
        if len(parts_of_main.asked) == when - 1:
            raise KeyboardInterrupt
        return parts_of_main.contend(found, *rest)

    monkeypatch.setattr("anomaly_lab.launch.portfolio.contend", contend)
    with pytest.raises(KeyboardInterrupt, match="^interrupted; the same command goes on where it was$"):
        selected(tmp_path)


@pytest.mark.parametrize(("name", "exports"), [("cae", True), ("padim", False)])
def test_what_follows_is_of_the_best_method_wherever_it_stands_in_the_list(tmp_path, parts_of_main, name, exports):
    parts_of_main.classes[name] = "anomaly_lab.methods.spade.Spade"  # which cannot be one file
    commands = [each["command"].split()[3] for each in selected(tmp_path)["commands"]]
    assert ("export" in commands) == exports
    assert commands[1] == "predict"


@pytest.mark.parametrize(
    ("photos", "words"), [((5, 0), []), ((0, 4), []), ((5, 4), ["labels=false"])], ids=["good", "defective", "typed"]
)
def test_painted_defects_rank_unless_every_data_set_has_labels_of_both_kinds(
    tmp_path, parts_of_main, capsys, photos, words
):
    parts_of_main.sets = {"bar": Photos(4, 1, 5, 4), "nut": Photos(4, 1, *photos)}
    assert selected(tmp_path, *words)["basis"] == "synthetic"
    assert len(parts_of_main.asked) == 1  # no control more
    assert "not used" in (printed := capsys.readouterr().out)
    assert ("labels=false" if words else "both kinds in nut") in printed


def test_methods_without_a_common_kind_are_refused_before_any_runs(tmp_path, parts_of_main, monkeypatch):
    every = {"a": {"perlin", "blob"}, "b": {"patch", "scar"}, "c": {"perlin", "patch", "scar", "blob"}, "none": set()}
    refuse_without_kinds({name: frozenset(every[name]) for name in "ac"})
    refuse_without_kinds({"none": frozenset()})
    message = "found none: a leaves out patch, scar; b leaves out blob, perlin; set method= to fewer of them$"
    with pytest.raises(UserError, match=message):
        refuse_without_kinds({name: frozenset(kinds) for name, kinds in every.items()})
    left = iter([{"blob"}, {"scar"}])
    monkeypatch.setattr("anomaly_lab.launch.jobs.unpainted", lambda config: frozenset(next(left)))
    with pytest.raises(UserError, match="found none: cae leaves out scar; padim leaves out blob"):
        selected(tmp_path, "labels=false")
    assert parts_of_main.asked == []


@pytest.mark.parametrize("word", ["dry_run=true", "dry_run=True", "++dry_run=TRUE"])
def test_a_dry_run_says_what_would_run(tmp_path, parts_of_main, capsys, word):
    with pytest.raises(FileNotFoundError):
        selected(tmp_path, word)
    assert parts_of_main.asked == []
    assert "  cae: 2 to start, about 2 s on two cores\n" in capsys.readouterr().out


def test_words_that_a_control_does_not_take_end_nothing(tmp_path, parts_of_main, monkeypatch):
    typed = ["budget.learning_rate=1e-3", "method.width=7", "cae.width=8", "experiment=keras_cae"]
    asked = []

    def entries(candidates, words_of, compose, spread):
        asked.extend(words_of(candidate)[0] for candidate in candidates.values())
        if any("method=control" in candidate.words for candidate in candidates.values()):
            raise UserError("no such key")
        return parts_of_main.entries(candidates, words_of, compose, spread)

    monkeypatch.setattr("anomaly_lab.launch.portfolio.entries", entries)
    found = selected(tmp_path, *typed)
    root = f"data.root={tmp_path}"
    assert asked[0] == ["method=cae", "data=folder", root, *typed]
    assert asked[2] == ["method=control", "method.kind=pca", "data=folder", root, *typed[2:]]
    assert found["others"][0] == {"name": "control_pca", "state": "left out", "note": "no such key"}
    with pytest.raises(ConfigCompositionException, match="datamodul"):  # a mistake that is everybody's
        selected(tmp_path, "data.datamodul=3")


def test_the_table_shows_intervals(capsys):
    figure = {"value": 0.9, "low": 0.8, "high": 1.0}
    assert figure_text(figure, number) == ".900 (.800 to 1.000)"
    assert figure_text(None, number) == "–"
    row = {"name": "padim", "figures": {"image_auroc": figure}, "seconds": 0.15, "minutes": 1.0, "control": False}
    row["tied"] = True
    show({
        "measures": {"image_auroc": "image AUROC", "pixel_aupro": "AU-PRO"}, "ranking": [row],
        "sentences": ["Take padim."],
        "commands": [{"what": "predict", "command": "python"}],
    })  # fmt: skip
    printed = capsys.readouterr().out
    for part in (".900", "0.15", "first", "Take padim.", "predict:\n  python"):
        assert part in printed
    assert "AU-PRO" not in printed


def test_why_a_method_has_no_result_is_said_though_none_has_one(tmp_path, parts_of_main, monkeypatch, capsys):
    def contend(found, *rest):
        left = "would take about 20 s, and 10 s are left"
        return [Contender("cae", state="failed", note="out\x1b of memory"), Contender("padim", [], "left out", left)]

    monkeypatch.setattr("anomaly_lab.launch.portfolio.contend", contend)
    with pytest.raises(UserError, match="found none; the lines above say why"):
        selected(tmp_path)
    printed = capsys.readouterr().out
    assert "failed: cae (out\\x1b of memory)\n" in printed
    assert "left out: padim (would take about 20 s, and 10 s are left)\n" in printed


def test_fewer_than_ten_photos_are_refused(lab, tmp_path):
    for i in range(9):
        write_image(tmp_path / f"few/good/{i}.png", np.full((40, 40, 3), 10 * i, np.uint8))
    done = lab("select", "data=folder", "data.root=few", code=1)
    assert done.stderr.strip().splitlines()[-1] == (
        "error: select: expected at least 10 good photos of few, found 9: fewer cannot tell methods apart"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_whole_and_again_without_labels(lab, parts, tmp_path):
    (tmp_path / "select").mkdir()
    (tmp_path / "select" / "tiny.yaml").write_text(
        "control_pca: {words: [method=control, method.kind=pca], seconds: 1, per_photo: 0.01}\n"
        "variation_model: {words: [method=variation_model], seconds: 1, per_photo: 0.01}\n"
        "broken: {words: [method=slides_cae, method.optimizer.lr=1e30, data.patches=64, data.batch_size=16], "
        "seconds: 1, per_photo: 0.01}\n"
        "long: {words: [method=slides_cae], seconds: 9000, per_photo: 0.01}\n"
    )
    words = (
        "select", f"--config-dir={tmp_path}", "portfolio=tiny", "data=folder", f"data.root={parts}",
        "data.category=bar", "data.image_size=64", "data.workers=0", "trainer.accelerator=cpu",
    )  # fmt: skip
    done = lab(*words, "minutes=5")
    folder = tmp_path / "runs/select/bar"
    found = json.loads((folder / "select.json").read_text())
    assert found["basis"] == "labels"
    rows = {row["name"]: row for row in found["ranking"]}
    assert next(iter(rows)) == "variation_model"
    assert {row["name"] for row in found["ranking"] if row["control"]} >= {"control_pca"}
    assert set(rows["variation_model"]["figures"]) == {"image_auroc", "pixel_aupro"}
    others = {other["name"]: other for other in found["others"]}
    assert others["long"]["state"] == "left out"
    assert "would take" in others["long"]["note"]
    assert others["broken"]["state"] == "failed"
    assert others["broken"]["note"].endswith("(exit code 1)")
    assert found["sentences"][0] in " ".join(done.stdout.split("\n"))
    pictures = pictures_of(folder)
    assert [group["title"] for group in pictures["groups"]] == ["variation_model"]
    notes = {shot["note"] for shot in pictures["groups"][0]["shots"]}
    assert {note.partition(": ")[0] for note in notes} >= {f"hole/{i:03d}.png" for i in range(5)}
    assert {note.partition(": ")[2] for note in notes} <= {"found", "missed", "false alarm", "no false alarm"}
    again = lab(*words, "minutes=5", "labels=false")
    assert "running: variation_model" not in again.stdout
    painted = json.loads((folder / "select.json").read_text())
    assert painted["basis"] == "synthetic"
    assert painted["kinds"] == ["blob", "patch", "perlin", "scar"]
    assert painted["photos"]["held_out"] == 2
    titles = [group["title"] for group in pictures_of(folder)["groups"]]
    kinds = ("A foreign texture", "A pasted patch", "A scar", "A stain")
    assert sorted(title.partition(" painted into good/")[0] for title in titles[:4]) == sorted(kinds)
    assert [title.partition(" good/")[0] for title in titles[4:]] == ["Good photo"] * 2


def pictures_of(folder):
    """What the page shows."""
    text = (folder / "select.html").read_text()
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])["pictures"]


def test_nothing_is_asked_of_a_machine_for_help(capsys):
    main(["--help"])
    assert "minutes: how long it may take" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["data=table"], ["experiment=credit_card"]])
def test_tables_are_refused_whoever_names_them(words):
    with pytest.raises(UserError, match="select: expected photos, found data=table; compare method="):
        main([*words, "data.root=x.csv", "data.label=Class"])
