"""The workspace of W&B: what is in it, and that it is saved only where it can be."""

import json
import sys

import pytest

from anomaly_lab.cli import dashboard
from anomaly_lab.cli.dashboard import workspace
from anomaly_lab.core.errors import UserError
from anomaly_lab.tracking.service import NO_KEY
from tests.cli.test_sync import OFFLINE, Service, service_at


@pytest.fixture(scope="module")
def spec():
    """The workspace as it is sent."""
    return workspace("team", "parts", "mine")._to_model().model_dump(by_alias=True, exclude_none=True)["spec"]


def sections(spec):
    return {section["name"]: section for section in spec["section"]["panelBankConfig"]["sections"]}


def configs(spec, name, kind=None):
    return [panel["config"] for panel in sections(spec)[name]["panels"] if kind in (None, panel["viewType"])]


def test_runs_are_grouped_by_protocol_method_and_category_with_their_metrics_as_columns(spec):
    (runs,) = spec["section"]["runSets"]
    assert [(key["section"], key["name"]) for key in runs["grouping"]] == [
        ("config", "protocol.value"), ("config", "method.value.name"), ("config", "data.value.category")
    ]  # fmt: skip
    assert runs["runFeed"]["columnOrder"] == [
        "run:displayName", "summary:test/image_auroc", "summary:test/control_image_auroc", "summary:test/pixel_aupro",
        "summary:test/control_pixel_aupro",
    ]  # fmt: skip


def test_bars_show_each_cell_of_the_matrix_and_each_method(spec):
    cells, rows = configs(spec, "Which method wins")[:2], configs(spec, "Which method wins")[2:]
    assert {panel["viewType"] for panel in sections(spec)["Which method wins"]["panels"]} == {"Bar Chart"}
    assert [panel["metrics"] for panel in cells] == [["test/image_auroc"], ["test/pixel_aupro"]]
    assert not [panel for panel in cells if "groupBy" in panel]  # drawn for the groups of the runs
    assert sections(spec)["Which method wins"]["localPanelSettings"]["useRunsTableGroupingInPanels"]
    assert [panel["metrics"] for panel in rows] == [
        ["test/image_auroc", "test/control_image_auroc"], ["test/pixel_aupro", "test/control_pixel_aupro"]
    ]  # fmt: skip
    assert {(panel["groupBy"], panel["groupAgg"]) for panel in rows} == {("learner.value", "mean")}


def test_losses_are_drawn_over_epochs_by_method(spec):
    panels = configs(spec, "Losses", "Run History Line Plot")
    assert [panel["metrics"] for panel in panels[:2]] == [
        ["train/loss_epoch"],
        ["validation/loss", "validation/latent"],
    ]
    assert {(panel["xAxis"], panel["groupBy"]) for panel in panels} == {("epoch", "learner.value")}
    names = {name for panel in panels for name in panel["metrics"]}
    assert {"generator/adversarial", "discriminator/real", "discriminator/gradient_penalty"} <= names


def test_maps_have_a_row_for_each_run(spec):
    panels = configs(spec, "Maps", "Media Browser")
    assert [panel["mediaKeys"] for panel in panels] == [
        ["gallery/lowest_defective"],
        ["gallery/highest_good"],
        ["gallery/random"],
    ]
    assert [panel["gridSettings"] for panel in panels] == [{"xAxis": "index", "yAxis": "run"}] * 3


def test_curves_are_read_from_the_tables_of_the_runs(spec):
    panels = configs(spec, "Curves", "Vega2")
    tables = [panel["userQuery"]["queryFields"][0]["fields"][0]["args"][0]["value"] for panel in panels]
    assert tables == [
        f"Custom Chart Tables/plots/{name}_table"
        for name in ("image_roc", "image_pr", "pixel_roc", "pixel_pr", "pixel_pro")
    ]
    assert [panel["fieldSettings"]["y"] for panel in panels] == [
        "true_positive_rate", "precision", "true_positive_rate", "precision", "overlap"
    ]  # fmt: skip
    assert [panel["mediaKeys"] for panel in configs(spec, "Curves", "Media Browser")] == [
        ["curves/scores"], ["curves/features"]
    ]  # fmt: skip


WORDS = ("entity=team", "project=parts")


def test_without_a_key_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(dashboard, "obstacle", lambda: NO_KEY)
    told = "dashboard: nothing saved: no key is configured; `wandb login` or WANDB_API_KEY sets one"
    with pytest.raises(UserError, match=told):
        dashboard.main(list(WORDS))


@pytest.mark.slow
def test_with_a_key_it_is_saved_and_its_address_is_printed(lab, tmp_path):
    with Service() as service:
        done = lab("dashboard", *WORDS, "name=All parts", **OFFLINE | service_at(service.url, tmp_path))
    (view,) = service.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("team", "parts", "All parts")
    assert list(sections(json.loads(view["spec"]))) == ["Which method wins", "Losses", "Maps", "Curves"]
    assert not done.stderr
    line = done.stdout.strip()
    assert line.startswith(f"dashboard: {service.url}/team/parts?nw=")
    assert line.endswith(view["name"].removeprefix("nw-").removesuffix("-v"))


@pytest.mark.slow
def test_what_the_service_refuses_is_told_in_one_line(lab, tmp_path):
    with Service(status=403) as service:
        done = lab("dashboard", *WORDS, code=1, **OFFLINE | service_at(service.url, tmp_path))
    assert done.stderr.startswith("error: dashboard: expected a W&B project with write access, found team/parts (")
    assert done.stderr.count("\n") == 1


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    told = r"expected wandb-workspaces, found none; pip install 'anomaly_lab\[dashboard\]'"
    with pytest.raises(UserError, match=told):
        dashboard.main(["entity=team", "project=parts"])


def test_mistakes_and_help_are_answered(capsys):
    with pytest.raises(UserError, match="dashboard: .* found no project="):
        dashboard.main(["entity=team"])
    with pytest.raises(UserError, match="found 'entty'; did you mean 'entity'"):
        dashboard.main(["entty=team", "project=p"])
    with pytest.raises(UserError, match="name: expected a title without emoji, found '🚀'"):
        dashboard.main(["entity=team", "project=p", "name=🚀"])
    dashboard.main(["--help"])
    assert "usage: python -m anomaly_lab dashboard entity=NAME project=NAME" in capsys.readouterr().out
