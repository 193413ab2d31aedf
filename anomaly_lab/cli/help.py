"""`anomaly-lab help`: usage, examples, and the options and methods of conf/ and of somebody's own folder."""

from pathlib import Path

from anomaly_lab.config.files import CONF, config_folder

COMMANDS = (
    "select",
    "predict",
    "threshold",
    "export",
    "compare",
    "data",
    "methods",
    "metrics",
    "doctor",
    "teacher",
    "sync",
    "dashboard",
    "completion",
)  # modules of cli/
HELP = """\
anomaly_lab: which unsupervised detector finds the defects on your parts

Usage
  python -m anomaly_lab [key=value ...]                     train, test, write the run folder
  python -m anomaly_lab -m [key=value,value ...]            a sweep: one job per combination, resumable
  python -m anomaly_lab select [minutes=20] key=value ...   which method for these photos: tries and ranks them
  python -m anomaly_lab predict run=DIR[,DIR...] source=FILE|FOLDER|GLOB [out=DIR] [maps=true] [pictures=false]
  python -m anomaly_lab threshold run=DIR normals=FOLDER [threshold=NAME]   a new threshold, without training
  python -m anomaly_lab export run=DIR format=onnx|pt2 [out=FILE]   a run as one file that does not need this package
  python -m anomaly_lab compare FOLDER [--out FILE]         runs side by side: terminal, report.html; .csv, .md, .tex
  python -m anomaly_lab data check [key=value ...]          what a run would find in the data, without training
  python -m anomaly_lab data cache [clear [ENTRY]]          show or clear the cache of decoded images
  python -m anomaly_lab methods | metrics                   every method, every figure of a result, in a line
  python -m anomaly_lab doctor                              what this machine has, and what is missing
  python -m anomaly_lab teacher network=NAME images=FOLDER out=FILE   a small teacher, for methods that need one
  python -m anomaly_lab sync [FOLDER]                       upload W&B runs that were recorded offline
  python -m anomaly_lab dashboard entity=NAME project=NAME  save a W&B workspace that compares methods
  eval "$(anomaly-lab completion)"                          let the shell complete commands, options, key=value

Examples
  python -m anomaly_lab experiment=demo                     generated data, about three minutes
  python -m anomaly_lab method=ssim_ae data.category=screw
  python -m anomaly_lab data=folder data.root=photos/       your own photos of good parts
  python -m anomaly_lab experiment=quick data.category=screw   a budget for a machine without a GPU
  python -m anomaly_lab -m method=cae,ssim_ae data.category=all seed=0,1,2 hydra.launcher.jobs=2
  python -m anomaly_lab -m hydra/sweeper=optuna data.batch_size=8,16,32   a search, without the test set

Groups (group=option; the files of conf/ have a comment on every key)
{groups}

Methods (method=name; the defaults that each changes, unless you type the key)
{methods}

Keys people set most
  data.root, data.category         the folder of the images, the part
  data.kind=texture|object         crop into patches, or show whole
  data.image_size, data.resize=pad|shrink|stretch|crop
  data.good_photos=N               use only N good photos; with -m 10,20,50: how many are needed?
  data.labelled_abnormal=N|FOLDER  defective photos to learn from, where a method can (python -m anomaly_lab methods)
  data.patches, data.batch_size, budget.epochs, trainer.precision
  seed, name, runs_dir, rerun=true|judge, dry_run=true, data.workers
  method.KEY, method.optimizer.KEY, callbacks.NAME.KEY, trainer.KEY   any argument of the classes that their files name
  hydra/launcher=local|slurm       where the jobs of a sweep run; hydra.launcher.jobs=N at a time

More
  --config-dir FOLDER              methods, layouts, callbacks of your own, in FOLDER/method/NAME.yaml and so on; also
                                   before this --help, and with data check and methods
  --cfg job [--resolve]            the whole configuration [with resolved values]
  --hydra-help                     flags of Hydra, such as --info
"""


def main(arguments: list[str]) -> None:
    """Print it. Raises UserError for a `--config-dir` that is no folder."""
    folder = config_folder(arguments)[1]
    print(HELP.format(groups=groups(folder), methods=methods(folder)), end="")


def groups(folder: Path | None) -> str:
    """The options of every group of the configuration, those of somebody's own folder among them, a line each."""
    options: dict[str, set[str]] = {}
    for root in (CONF, folder) if folder else (CONF,):
        for path in root.glob("*/**/*.yaml"):
            group = options.setdefault(path.parent.relative_to(root).as_posix(), set())
            group |= set() if path.stem.startswith("_") else {path.stem}
    return "\n".join(f"  {group}: {', '.join(sorted(names))}" for group, names in sorted(options.items()))


def methods(folder: Path | None) -> str:
    """Every method: its paper in a line, and what it sets in other groups."""
    from anomaly_lab.cli.methods import about, files, paper  # here: every command reads this file, and these take time
    from anomaly_lab.config.wants import typed

    lines = []
    for path in files(folder):
        lines.append(f"  {path.stem}: {paper(path)}")
        if wants := about(path)[0].get("wants"):
            lines.append(f"    sets {', '.join(f'{key}={typed(value)}' for key, value in wants.items())}")
    return "\n".join(lines)
