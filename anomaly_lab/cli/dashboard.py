"""`python -m anomaly_lab dashboard`: save a W&B workspace that shows the runs of a project side by side.

W&B has no panel for a table of two keys. The nearest substitute is used here: runs grouped by protocol, method and
category, with the means of their metrics as columns, and one bar per group. Runs that knew defective photos share no
bar with those that did not. `compare` draws the matrix.
"""

from typing import TYPE_CHECKING

from anomaly_lab.cli.options import Options, parse
from anomaly_lab.core.errors import UserError
from anomaly_lab.tracking.service import obstacle, remedy

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace
USAGE = "dashboard entity=NAME project=NAME [name=TITLE]"
NAME = "Which method wins"
OPTIONS: Options = {
    "entity": "user or team in W&B",
    "project": "the W&B project of the runs: their `logger.project`, by default anomaly_lab",
    "name": f"title of the workspace (default: {NAME}); every call saves a new workspace",
}
PROTOCOL, METHOD, CATEGORY = "protocol", "method.name", "data.category"  # in the configuration of a run
LEARNER = "learner"  # the method with the protocol: a panel is grouped by one key
METRICS = {"image AUROC": "image_auroc", "AU-PRO": "pixel_aupro"}
LOSSES = {
    "training": ("train/loss_epoch",),
    "validation: held-out normal images": ("validation/loss", "validation/latent"),
    "generator": ("generator/adversarial", "generator/contextual", "generator/encoder"),
    "discriminator": ("discriminator/real", "discriminator/fake", "discriminator/gradient_penalty"),
    "encoder of f_anogan": ("encoder/latent", "encoder/image", "encoder/features"),
    "diversity of the samples, 1: as diverse as the data": ("samples/diversity",),
}
MAPS = {
    "defective, lowest scores": "gallery/lowest_defective", "good, highest scores": "gallery/highest_good",
    "at random": "gallery/random",
}  # fmt: skip
CURVES = {
    "image_roc": ("false_positive_rate", "true_positive_rate"),
    "image_pr": ("recall", "precision"),
    "pixel_roc": ("false_positive_rate", "true_positive_rate"),
    "pixel_pr": ("recall", "precision"),
    "pixel_pro": ("false_positive_rate", "overlap"),
}
RUNS = 100  # in a panel, at most


def main(arguments: list[str]) -> None:
    """Save the workspace and print its address.

    Raises UserError for wrong options, without wandb-workspaces, without a key, and for an error of the service.
    """
    options = parse(arguments, USAGE, OPTIONS, needed=("entity", "project"))
    if options is None:
        return
    try:
        made = workspace(options["entity"], options["project"], options.get("name", NAME))
    except ImportError:
        raise UserError(
            "dashboard: expected wandb-workspaces, found none; pip install 'anomaly_lab[dashboard]'"
        ) from None
    if reason := obstacle():
        raise UserError(f"dashboard: nothing saved: {reason}{remedy(reason)}")
    try:
        made.save()
    except Exception as error:  # of wandb, of its client, or of an incomplete answer
        reason = " ".join(str(error).split())
        raise UserError(
            f"dashboard: expected a W&B project with write access, found {made.entity}/{made.project} "
            f"({type(error).__name__}: {reason:.200})"
        ) from error
    print(f"dashboard: {made.url}")


def workspace(entity: str, project: str, name: str) -> "Workspace":
    """The workspace, not yet saved. Raises UserError for a name that W&B would refuse."""
    from wandb_workspaces import expr
    from wandb_workspaces.workspaces import RunsetSettings, Workspace, WorkspaceSettings

    columns = [f"summary:test/{prefix}{key}" for key in METRICS.values() for prefix in ("", "control_")]
    try:
        return Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=[which_method_wins(), losses(), maps(), curves()],
            settings=WorkspaceSettings(x_axis="epoch", max_runs=RUNS),
            runset_settings=RunsetSettings(
                groupby=[expr.Config(key) for key in (PROTOCOL, METHOD, CATEGORY)], pinned_columns=columns
            ),
        )
    except ValueError as error:
        raise UserError(f"name: expected a title without emoji, found {name!r}") from error


def which_method_wins() -> "Section":
    """A bar for each method and category; then one for each method, over its categories, beside the best control."""
    from wandb_workspaces.reports.v2 import BarPlot, Config
    from wandb_workspaces.workspaces import Section

    cells = [  # not grouped by themselves: W&B draws the groups of the runs
        BarPlot(title=f"{name}: method x category", metrics=[f"test/{key}"], max_bars_to_show=RUNS)
        for name, key in METRICS.items()
    ]
    rows = [
        BarPlot(
            title=f"{name}: mean over the categories, and that of the best control",
            metrics=[f"test/{key}", f"test/control_{key}"],
            groupby=Config(LEARNER),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        )
        for name, key in METRICS.items()
    ]
    return Section(name=NAME, panels=[*cells, *rows], is_open=True, pinned=True)


def losses() -> "Section":
    """Losses over epochs: the mean of a method's runs, and how far they lie apart."""
    from wandb_workspaces.reports.v2 import Config, LinePlot
    from wandb_workspaces.workspaces import Section, SectionPanelSettings

    return Section(
        name="Losses",
        panels=[
            LinePlot(
                title=title,
                x="epoch",
                y=list(names),
                groupby=Config(LEARNER),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
                max_runs_to_show=RUNS,
            )
            for title, names in LOSSES.items()
        ],
        is_open=True,
        panel_settings=SectionPanelSettings(x_axis="epoch"),
    )


def maps() -> "Section":
    """Image, reconstruction, map and mask: a row for each run."""
    from wandb_workspaces.reports.v2 import MediaBrowser
    from wandb_workspaces.workspaces import Section, SectionLayoutSettings

    return Section(
        name="Maps",
        panels=[
            MediaBrowser(title=title, media_keys=[key], mode="grid", grid_x_axis="index", grid_y_axis="run")
            for title, key in MAPS.items()
        ],
        is_open=True,
        layout_settings=SectionLayoutSettings(columns=1, rows=len(MAPS)),
    )


def curves() -> "Section":
    """The curves of the runs over each other; box plots, histograms and features as pictures."""
    from wandb_workspaces.reports.v2 import CustomChart, MediaBrowser
    from wandb_workspaces.workspaces import Section

    lines = [
        CustomChart(
            query={"summaryTable": {"tableKey": f"Custom Chart Tables/plots/{name}_table"}},  # as wandb.plot names it
            chart_name="wandb/line/v0",
            chart_fields={"x": x, "y": y},
            chart_strings={"title": name.replace("_", " ")},
        )
        for name, (x, y) in CURVES.items()
    ]
    pictures = [
        MediaBrowser(title=title, media_keys=[key])
        for title, key in (("scores by kind", "curves/scores"), ("features", "curves/features"))
    ]
    return Section(name="Curves", panels=[*lines, *pictures])
