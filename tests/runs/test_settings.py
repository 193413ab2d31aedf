"""Settings of a run: what is compared, what is told, and what never leaves the machine."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anomaly_lab.runs import settings
from tests.report.synthetic import config


def test_references_stay_where_runs_are_compared_and_are_followed_where_they_are_told():
    made = config("cae", "mvtec_ad", "screw", 3, "sweep")
    chosen, told = settings.chosen(made), settings.shown_settings(made)
    assert chosen["method.seed"] == "${seed}"
    assert chosen["augmentation.rotation"] == "${data.settings.rotation}"
    assert (told["method.seed"], told["seed"], told["method.size"]) == (3, 3, 256)
    assert told["augmentation.rotation"] == 180  # by way of the table of the categories
    assert "seed" not in chosen


def test_a_seed_changes_nothing_and_a_setting_does():
    one, other, third = (
        settings.chosen(config("cae", "mvtec_ad", "screw", seed, "sweep", **changes))
        for seed, changes in ((0, {}), (1, {}), (0, {"method__latent": 500}))
    )
    assert one == other
    assert {key for key in one if one[key] != third[key]} == {"method.latent"}


def test_neither_places_nor_secrets_nor_the_environment_are_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    told = settings.shown_settings(config("cae", "folder", "photos", 0, "sweep"))
    text = repr(told)
    assert len(told) > 10
    assert "somebody" not in text
    assert "secret" not in text
    assert told["method.weights"] == "…/weights.safetensors"
    assert told["method.told"] == "${oc.env:HOME}"  # the name of the variable, never its value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/bob/a/b.png is missing", "…/b.png is missing"),
        ("~/x/y and C:\\Users\\z\\q.txt", "…/y and …/q.txt"),
        ("'/data/a b/c.png'", "'…/a b/c.png'"),
        ("runs/a/b", "runs/a/b"),
        ("https://example.org/a", "https://example.org/a"),
        ("${data.root}/ok 1/2", "${data.root}/ok 1/2"),
        (["/a/b", 1], ["…/b", 1]),
        ({"a": {"b": "/c/d"}, "api_key": "0"}, {"a": {"b": "…/d"}}),
        (0.5, 0.5),
    ],
)
def test_of_an_absolute_path_the_last_part_stays(value, shown):
    assert settings.public(value) == shown


FOLDERS = st.lists(st.text("abcXYZ019äß_-.#=+%@", min_size=1, max_size=6).map("ordner".__add__), min_size=1, max_size=4)


@st.composite
def places(draw):
    """A path that begins at a root, its folders, the last part."""
    folders = draw(FOLDERS)
    root, separator = draw(st.sampled_from((("/", "/"), ("~/", "/"), ("C:\\", "\\"), ("d:/", "/"), ("file:///", "/"))))
    last = draw(st.sampled_from(("a.png", "weights", "größe.tiff")))
    return root + separator.join([*folders, last]), folders, last


BEFORE = st.sampled_from(("", " ", "'", '"', "(", "[", "=", "key=", "found: ", "error:", "a.png,", "weights at ", "→"))
BEHIND = st.sampled_from(("", " ", "'", '"', ")", "]", ": ", ", expected one", "; next", "\n"))


@given(place=places(), before=BEFORE, behind=BEHIND, wrap=st.sampled_from((0, 1, 2)))
@example((("/ordner/a"), ["ordner"], "a"), "sqlite://", "", 0)
def test_no_absolute_path_survives_wherever_it_stands(place, before, behind, wrap):
    path, folders, last = place
    text = before + path + behind
    value = (text, [1, {"a": text}], {"a": {"b": [text, None]}})[wrap]
    shown = repr(settings.public(value))
    assert not [folder for folder in folders if folder in shown]
    assert last in shown


@given(st.recursive(st.none() | st.floats(allow_nan=False) | st.text("ab1 .,:-"),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner), max_leaves=5))  # fmt: skip
def test_what_is_no_path_stays_as_it_is(value):
    assert settings.public(value) == value


def test_a_home_with_spaces_is_no_exception(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/bob the builder"))
    assert settings.public("/home/bob the builder/photos/a.png") == "…/a.png"


def test_a_reference_to_a_section_becomes_the_settings_of_the_section():
    made = config("cae", "mvtec_ad", "screw", 0, "sweep")
    made |= {
        "tiling": "${tilings.object}",
        "tilings": {"object": {"size": "${data.image_size}", "token": "0123secret"}},
    }
    told = settings.shown_settings(made)
    assert (told["data.settings.kind"], told["data.settings.rotation"], told["tiling.size"]) == ("object", 180, 256)
    assert {"data.settings", "tiling", "tiling.token"}.isdisjoint(told)


def test_references_in_a_circle_end():
    assert settings.shown_settings({"method": {"a": "${method.b}", "b": "${method.a}"}})["method.a"].startswith(
        "${method."
    )
    assert settings.shown_settings({"method": {"a": {"b": "${method.a}"}}}) == {
        "seed": None, "method.a.b.b.b.b": "${method.a}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "epochs", "channels", "tiling"),
    [
        ("ssim_ae.SSIMAE", 20, 1, "window"),
        ("variation_model.VariationModel", 1, 1, "whole"),
        ("gone.Gone", 20, 1, "window"),
    ],
)
def test_what_the_method_decides_is_shown_as_its_value(tmp_path, method, epochs, channels, tiling):
    lines = (
        "budget: {epochs: 20}", "input: {channels: '${want:input.channels,3}'}", "data: {kind: texture}",
        "trainer: {max_epochs: '${fact:passes,${budget.epochs}}', n: '${want:a,${budget.epochs}}'}",
        "tiling: ${tilings.${tiled_as:${data.kind}}}", "tilings: {texture: {name: window}, object: {name: whole}}",
        f"method: {{wants: {{input.channels: 1}}, _target_: anomaly_lab.methods.{method}}}",
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    found = settings.shown_settings(settings.read(tmp_path / "config.yaml"))
    assert (found["trainer.max_epochs"], found["trainer.n"]) == (epochs, 20)
    assert (found["input.channels"], found["tiling.name"]) == (channels, tiling)
    assert not any(key.startswith("method.wants") for key in found)


def test_what_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="expected a mapping, found list"):
        settings.read(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match="line 2"):
        settings.read(tmp_path / "config.yaml")


def test_which_settings_describe_the_data():
    names = (
        "data.image_size",
        "augmentation.rotation",
        "data.settings.kind",
        "data.fold",
        "data.patches",
        "method.kind",
    )
    assert [settings.of_the_data(name) for name in names] == [True, True, True, True, False, False]
