"""The default logger, W&B: online if a key is configured, else offline with one line that says so.

Everything that is logged is in the run folder too, under the same names.
"""

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import PIL.Image
import pydantic
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.core.files import read_csv, write_whole
from anomaly_lab.runs.collect import names_of
from anomaly_lab.runs.settings import public
from anomaly_lab.tracking.service import obstacle

if TYPE_CHECKING:  # at run time imported where it is used: a machine without wandb trains with logger=csv
    import wandb

INIT_SECONDS = 8.0  # beside the seconds of `obstacle`: a run is offline 20 s after its start, or sooner
FINISH_SECONDS = 60.0  # for what is not uploaded when a run ends
RUN_ID = "wandb_run_id.txt"  # in the run folder: a run that goes on goes on in W&B too
LATER = "upload later: python -m anomaly_lab sync"
TABLE_ROWS = 10_000  # W&B shows no more of a table
TABLE_PICTURES, PICTURE_WIDTH = 100, 320  # of a table: at most so many pictures, of so many px
TEXTS = {"path", "defect", "decision"}  # columns of scores.csv that are no numbers


class FailSafeWandbLogger(WandbLogger):
    """Logs to W&B; if W&B fails, one line says so and training continues."""

    broken = False

    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration."""
        with self._steady():
            super().log_hyperparams(params)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log metrics, pictures or tables."""
        if "epoch" in metrics:  # counted from 1, as in losses.csv; Lightning counts from 0
            metrics = {**metrics, "epoch": metrics["epoch"] + 1}
        with self._steady():
            super().log_metrics(metrics, step)

    @contextmanager
    def _steady(self) -> Iterator[None]:
        try:
            yield
        except lost_errors() as error:
            if not self.broken:
                say(f"W&B: logging has ended ({type(error).__name__}: {error}), the run goes on without it")
            self.broken = True


def lost_errors() -> tuple[type[Exception], ...]:
    """The exceptions of wandb after its background process has ended."""
    import wandb

    return OSError, wandb.Error


def wandb_logger(
    save_dir: str,
    project: str,
    name: str,
    group: str,
    tags: list[str],
    job_type: str = "train",
    console: bool = False,
) -> WandbLogger:
    """A W&B run in the run folder.

    Without a key or an answer of the service, the run is recorded offline: logging must not cost a run. Command line,
    folders, git remote and, unless `console`, printed lines stay on this machine.
    """
    if not is_first_process():
        return WandbLogger(save_dir=save_dir)  # never opens a run: rank 0 records for all
    import wandb

    session = _session()
    mode = session.mode
    if mode == "online" and (reason := obstacle(session)):
        mode = "offline"
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to the same service: 12 s more at the very end
        say(f"W&B: {reason}, logging offline; {LATER}")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_DATA_DIR", f"{save_dir}/wandb")  # where tables wait for their upload; else: the home
    settings = wandb.Settings(
        init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, silent=True, x_disable_meta=True, disable_git=True,
        console="auto" if console else "off",
    )  # fmt: skip
    run_id = Path(save_dir) / RUN_ID
    goes_on = run_id.is_file()
    if not goes_on:
        write_whole(run_id, lambda part: part.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)))
    about: dict[str, Any] = {
        "project": project, "name": name[:128], "group": group[:128], "tags": [tag[:64] for tag in tags],
        "id": run_id.read_text().strip(), "resume": "allow" if goes_on else None,
        "job_type": job_type, "dir": save_dir, "settings": settings,
    }  # fmt: skip
    try:
        run = wandb.init(mode=mode, **about)  # type: ignore[arg-type]
    except (wandb.Error, TimeoutError, ValueError) as error:
        said = " ".join(str(error).split())
        say(f"W&B: it cannot be used ({type(error).__name__}: {said:.100}), logging offline; {LATER}")
        about["project"] = re.sub(r"[/\\#?%:]", "-", project)[:128]
        wandb.teardown()  # its process keeps the id of the run that failed
        run = wandb.init(mode="offline", **about)
    run.define_metric("*", step_metric="epoch")
    run.define_metric("train/loss_step", step_metric="trainer/global_step")
    return FailSafeWandbLogger(experiment=run, save_dir=save_dir)


def _session() -> "wandb.Settings":
    """W&B's settings for this process; variables of the environment that it refuses are named and left out."""
    import wandb

    try:
        return wandb.setup(wandb.Settings(silent=True)).settings
    except pydantic.ValidationError as error:
        for details in error.errors():
            name = f"WANDB_{details['loc'][0]}".upper()
            os.environ.pop(name, None)
            expected = details["msg"].replace("Input should be", "expected")
            say(f"W&B: {name}: {expected}, found {details['input']!r}, logging offline; {LATER}")
        os.environ["WANDB_MODE"] = "offline"
        return wandb.setup(wandb.Settings(silent=True)).settings


def hyperparameters(config: DictConfig) -> dict[str, Any]:
    """The configuration for a logger: chosen settings, resolved, without tables and wiring.

    Of absolute paths the last part stays, secrets are left out, and of the environment only the names of variables are
    logged.
    """
    written, resolved = (cast(dict[str, Any], OmegaConf.to_container(config, resolve=yes)) for yes in (False, True))
    shown = {
        key: value for key, value in resolved.items() if key not in {"logger", "run_folder", "tilings", "callbacks"}
    }
    data = {key: value for key, value in resolved["data"].items() if key not in {"categories", "layout", "datamodule"}}
    return public(_without_environment({**shown, "data": data}, written))


def _without_environment(resolved: Any, written: Any) -> Any:
    if isinstance(resolved, dict) and isinstance(written, dict):
        return {key: _without_environment(value, written.get(key)) for key, value in resolved.items()}
    return written if isinstance(written, str) and "oc.env:" in written else resolved


def log_pictures(
    loggers: Iterable[Logger], panels: Mapping[str, Mapping[str, np.ndarray]], epoch: int | None = None
) -> None:
    """Log RGB pictures, by panel and caption, to the loggers that show pictures; `epoch` counts from 1.

    W&B needs pictures of equal size in a panel: smaller ones get black margins there.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            shown: dict[str, Any] = {
                key: [
                    wandb.Image(picture, caption=caption or None)
                    for caption, picture in _equally_large(pictures).items()
                ]
                for key, pictures in panels.items()
            }
            logger.log_metrics(shown if epoch is None else {**shown, "epoch": epoch - 1})
        elif isinstance(logger, TensorBoardLogger):
            for key, pictures in panels.items():
                for caption, picture in pictures.items():
                    name = f"{key}/{caption}" if caption else key
                    logger.experiment.add_image(name, picture, epoch, dataformats="HWC")


def _equally_large(pictures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    height, width = np.max([picture.shape[:2] for picture in pictures.values()], axis=0)
    return {
        caption: np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)))
        for caption, picture in pictures.items()
    }


def log_tables(logger: WandbLogger, folder: Path) -> None:
    """Log scores.csv of a run folder as a table, and its curves as plots, which W&B overlays with those of other runs.

    Of more than `TABLE_ROWS` images an even selection is logged, and one line says so. At most `TABLE_PICTURES`
    images have a picture, made small: those with one in `gallery/` or `pictures/`.
    """
    import wandb

    tables: dict[str, Any] = {}
    if (folder / "scores.csv").is_file() and (rows := read_csv(folder / "scores.csv")):
        files = _picture_files(folder, rows)
        shown = [files.get(row["path"]) for row in rows]
        names = names_of([row["path"] for row in rows])
        rows = [{**row, "path": name} for row, name in zip(rows, names, strict=True)]
        if len(rows) > TABLE_ROWS:
            say(f"W&B: its table shows {TABLE_ROWS} of {len(rows)} images, evenly drawn; scores.csv has all")
            places = np.linspace(0, len(rows) - 1, TABLE_ROWS).astype(int).tolist()
            rows, shown = [rows[i] for i in places], [shown[i] for i in places]
        typed = [
            [value if column in TEXTS else float(value) for column, value in row.items()]
            + [_small(file) if file else None] * any(shown)
            for row, file in zip(rows, shown, strict=True)
        ]
        tables["tables/scores"] = wandb.Table(columns=[*rows[0], *["picture"] * any(shown)], data=typed)
    for path in sorted((folder / "curves").glob("*.csv")):
        rows = read_csv(path)
        header: list[Any] = list(next(iter(rows), {}))
        if header[2:] == ["threshold"]:
            points = wandb.Table(columns=header[:2], data=[[float(row[name]) for name in header[:2]] for row in rows])
            title = path.stem.replace("_", " ")
            tables[f"plots/{path.stem}"] = wandb.plot.line(points, header[0], header[1], title=title, split_table=True)
    if tables:
        logger.log_metrics(tables)


def _picture_files(folder: Path, rows: list[dict[str, str]]) -> dict[str, Path]:
    """The pictures of the first `TABLE_PICTURES` images that have one, by the path of the image."""
    index = folder / "gallery" / "index.csv"
    found = {row["path"]: folder / "gallery" / row["file"] for row in (read_csv(index) if index.is_file() else ())}
    for row in rows:
        file = folder / "pictures" / f"{row.get('defect')}_{Path(row['path']).stem}.png"
        if file.is_file():
            found.setdefault(row["path"], file)
    return dict(islice(found.items(), TABLE_PICTURES))


def _small(file: Path) -> "wandb.Image":
    """A picture, at most `PICTURE_WIDTH` px wide."""
    import wandb

    with PIL.Image.open(file) as picture:
        picture.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
        return wandb.Image(picture.convert("RGB"), file_type="jpg")


def finish(run: "wandb.Run") -> None:
    """End a W&B run within FINISH_SECONDS.

    If that is not enough, the service is lost, and the run becomes an offline run, which `sync` finds.
    """
    folder = Path(run.settings.sync_dir)
    began = time.monotonic()
    try:
        run.finish()
        lost = time.monotonic() - began >= FINISH_SECONDS
    except lost_errors():
        lost = True
    if lost and folder.name.startswith("run-") and folder.is_dir():
        folder.rename(folder.with_name(f"offline-{folder.name}"))
        say(f"W&B: the service was lost, the run is kept offline; {LATER}")
