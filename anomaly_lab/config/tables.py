"""Refusals of a method that cannot read its data: rows of a table (`data=table`), or photos."""

from typing import Any, get_args

from anomaly_lab.config.labels import takers
from anomaly_lab.config.schema import class_fact, signature
from anomaly_lab.core.errors import UserError, nearest

TABLE = "anomaly_lab.data.table_module.TableModule"
CONTROLS = {True: "anomaly_lab.methods.table_control.TableControl", False: "anomaly_lab.methods.control.Control"}
OF_PHOTOS = {  # keys of the data that say nothing of a row, and what they are unless somebody typed them
    "resize": "pad", "value_range": None, "region": None, "corruption": None, "labelled_abnormal": None, "fold": None,
    "image_size": 1, "patches": None, "on_error": "stop",
}  # fmt: skip


def is_table(resolved: dict[str, Any]) -> bool:
    """Whether the data of a configuration are rows of a table."""
    datamodule = resolved["data"]["datamodule"]
    return isinstance(datamodule, dict) and datamodule.get("_target_") == TABLE


def of_tables() -> list[str]:
    """What reads tables, as it is typed: methods, and the experiment in which another one does."""
    both = takers("reads", "photos")
    return [*(name for name in takers("reads", "tables") if name not in both), "experiment=goad_table"]


def check_reads(resolved: dict[str, Any]) -> None:
    """Refuse a method for other data than it reads, and keys of photos for a table."""
    method, table = resolved["method"], is_table(resolved)
    reads, name = class_fact(method["_target_"], "reads"), method["name"]
    asked = f"method={name}"
    if len(reads) > 1 and "projections" in signature(method["_target_"]):
        reads = ("tables",) if method.get("projections") else ("photos",)
        asked += " and method.projections, as experiment=goad_table has them" * (reads == ("tables",))
    if table and "tables" not in reads:
        raise UserError(
            f"method: expected {' or '.join(of_tables())} with data=table, found method={name}, which reads photos"
        )
    if not table and "photos" not in reads:
        found = resolved["data"]["name"]
        raise UserError(f"data: expected data=table with {asked}, which reads rows of numbers, found {found}")
    kinds = get_args(signature(CONTROLS[table])["kind"])
    controls = resolved["data"].get("controls")
    for kind in controls if isinstance(controls, list) else ():
        if kind not in kinds:
            hint = nearest(str(kind), kinds)
            raise UserError(f"data.controls: expected some of {', '.join(kinds)}, found {kind!r}{hint}")
    if not table:
        return
    for key, usual in OF_PHOTOS.items():
        if (value := resolved["data"].get(key)) != usual:
            raise UserError(f"data.{key}: expected none with data=table, whose rows are no photos, found {value!r}")
