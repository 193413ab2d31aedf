"""What a GPU does with every method, in some minutes on a bare machine: `python3 experiments/gpu/run.py --help`.

Parts, each of which stands alone: `steps` (every method's step), `evaluation` (maps and tests), `budgets` (published
trainings), `sized` (parts of them that fit into 8 minutes), `features` (PatchCore and PaDiM with WideResNet-50-2). Rows
are appended to CSV files in `--out` one by one. One that is there already, or beside this file, is not measured again.
"""

import argparse
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # started by its path, a script sees only its own folder

from rows import SECONDS, TABLES, Row, Table, TimeGuard, measure

HERE = Path(__file__).parent
TEXTURE = ("data.settings.kind=texture", "input.texture.image_size=256")  # as large as the photos
SETS = {  # name -> its folder below one of --data, and the words of a run
    "transistor": ("mvtec_ad_small/transistor", ("data=mvtec_ad", "data.category=transistor")),
    "wood": ("wood_boards_256", ("data=folder", "data.category=wood", *TEXTURE)),
    "cracks": ("concrete_crack_700", ("data=folder", "data.category=cracks", *TEXTURE)),
}
HALF_WIDTH = ("method.width=64", "method.segmentation_width=32")  # of DRAEM
BUDGETS = {  # row -> words beside experiment=<name>_paper
    "cae": (), "ssim_ae": (), "ganomaly": (), "f_anogan": (), "cflow": (), "fastflow": (),
    "draem, half width": HALF_WIDTH, "cutpaste": (), "stfpm": (), "reverse_distillation": (), "mkd": (),
}  # fmt: skip
RESNET18 = {  # methods that need trained weights, with what ResNet-18 has instead of the published network
    "fastflow": (),
    "cflow": ("method.backbone.layers=[layer2,layer3]",),
    "stfpm": (),
    "reverse_distillation": ("method.block=basic", "method.blocks=[2,2,2]", "method.base_width=64"),
    "mkd": ("method.backbone.layers=[layer1,layer2,layer3]", "method.pooled=false", "method.normalise=true"),
}
# Budget -> method, experiment, words, sets: for 8 minutes of an H100 at a cautious 100 TFLOP/s in bf16 (DRAEM: 200), by
# arithmetic, not measured. Epochs are those of transistor (192 images).
SIZED = {
    # published: 500 epochs, 100 000 images; 700 000 fit
    "100 epochs": ("fastflow", "fastflow_paper", ("budget.epochs=100",), 3),
    # published: 42 000 images; 75 000 fit, held up by 160 small steps a batch, about 1 ms each
    "20 000 images": ("cflow", "cflow_paper", ("budget.epochs=104",), 1),
    # published: twice the width, four times the work, and 700 epochs
    "half width, 60 000 images": ("draem", "draem_paper", (*HALF_WIDTH, "budget.epochs=312"), 1),
    # published: 65 000 steps; 35 000 fit and leave no time for the test
    "25 000 steps": ("cutpaste", "cutpaste_paper", ("budget.epochs=98",), 1),
    "crops of 64 px": ("cutpaste", "cutpaste_patches", (), 1),  # all of the published budget fits
}  # fmt: skip
WIDE = "wide_resnet50_2.tv_in1k"
FEATURES = {"padim": (), **{f"patchcore {ratio}": (f"method.ratio={ratio}",) for ratio in (0.01, 0.1, 0.25)}}
TEACHERS = {"efficient_ad": ("teacher", "pdn_small"), "uninformed_students": ("patch65", "patch65")}  # their keys
TOY = ("data.batch_size=8", "data.workers=0")
TOY_SIDE = {"cae": 128, "ssim_ae": 128, "anomaly_dino": 56}  # px; else 64
TOY_SIZES = {
    "draem": ("method.width=8", "method.segmentation_width=4"),
    "anogan": ("method.generator.width=8", "method.discriminator.width=8", "method.search_steps=2"),
    "f_anogan": (
        "method.generator.width=8", "method.critic.width=8", "method.encoder.width=8", "data.kind=texture",
        "data.patch_size=32",
    ),
    "ganomaly": ("method.width=8",), "skip_ganomaly": ("method.width=8",),
    "cnn_dictionary": ("method.evaluation=dense",), "padim": ("method.features=50",),
}  # fmt: skip


def sets_in(folders: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """The words of every data set that lies in one of the folders."""
    found: dict[str, tuple[str, ...]] = {}
    for name, (path, words) in SETS.items():
        for place in (folder / path for folder in folders):
            if place.is_dir():
                root = place.parent if "data=mvtec_ad" in words else place
                found.setdefault(name, (*words, f"data.root={root.absolute()}"))
    return found


class Parts:
    """The rows of every part. What measures them is imported when it is needed: torch comes with it."""

    def __init__(self, options: argparse.Namespace, guard: TimeGuard) -> None:
        self.options, self.guard, self.work = options, guard, options.work.absolute()
        self.sets = sets_in(options.data)
        self.first = next(iter(self.sets))  # of all parts but the budgets and the tests
        self.code = {name: import_module(name) for name in ("steps", "fitted", "evaluation", "budgets")}
        counts = self.code["steps"].Counts
        self.counts = counts(1, 2, 1) if options.toy else counts()
        self.batches = 2 if options.toy else 8  # that a method without a gradient sees in part `steps`

    def words(self, name: str, words: Iterable[str], backbone: str | None = None) -> list[str]:
        """The words of a row: its own, device, cache, drawn weights and, for a toy, tiny sizes."""
        options = self.options
        found = [*words, f"trainer={'cpu' if options.device == 'cpu' else 'gpu'}", "logger=none", "controls=false"]
        found += [f"data.cache_dir={self.work / 'cache'}"]
        if options.toy:
            backbone = "resnet18.tv_in1k" if backbone == WIDE else backbone
            found += [*TOY, f"data.image_size={TOY_SIDE.get(name, 64)}", *TOY_SIZES.get(name, ())]
        if backbone:
            weights = self.code["steps"].random_weights(backbone, self.work)
            found += [f"method.backbone.name={backbone}", f"method.backbone.weights={weights}"]
        if name in TEACHERS:
            key, network = TEACHERS[name]
            width = 0.05 if options.toy else 1.0
            weights = self.code["steps"].random_teacher(network, width, self.work)
            found += [f"method.{key}.weights={weights}", f"method.{key}.width={width}"]
        return found

    def in_folder(self, work: Callable, name: str, words: list[str], backbone: str | None, *rest: Any) -> dict:
        """Measure in a run folder that is then removed."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            return work(self.words(name, words, backbone), Path(folder), *rest)

    def steps(self) -> Iterator[Row]:
        """Every method's step in both precisions; what methods without a gradient do with an image."""
        import yaml
        from hydra.utils import get_class

        from anomaly_lab.methods.base.fitted import FittedMethod

        for path in sorted((HERE.parents[1] / "conf" / "method").glob("*.yaml")):
            name, settings = path.stem, yaml.safe_load(path.read_text())
            if name == "control" or name not in (self.options.methods or [name]):
                continue
            backbone = settings.get("backbone", {}).get("name")
            key, words = {"method": name, "data": self.first}, [f"method={name}", *self.sets[self.first]]
            if issubclass(kind := get_class(settings["_target_"]), FittedMethod):
                work = partial(self.in_folder, self.code["fitted"].fitted, name, words, backbone, self.batches)
                yield Row("fitted", {**key, "backbone": backbone or ""}, work)
                continue
            for stage, of_stage in enumerate(getattr(kind, "stages", ("training",))):
                for precision in ("32-true",) if self.options.toy else ("32-true", "bf16-mixed"):
                    given = [*words, f"trainer.precision={precision}"]
                    work = partial(self.in_folder, self.code["steps"].steps, name, given, backbone, self.counts, stage)
                    yield Row("steps", {**key, "stage": of_stage, "precision": precision}, work)

    def evaluation(self) -> Iterator[Row]:
        """Maps on the device, and the test of an untrained autoencoder."""
        code = self.code["evaluation"]
        for count, side in ((4, 32),) if self.options.toy else ((50, 256), (160, 512), (160, 1024)):
            key = {"what": f"maps {count} x {side}", "data": "noise"}
            yield Row("evaluation", key, partial(code.maps, count, side))
        for name, words in self.sets.items():
            work = partial(self.in_folder, code.test, "cae", ["method=cae", *words], None)
            yield Row("evaluation", {"what": "test of cae", "data": name}, work)

    def features(self) -> Iterator[Row]:
        """PatchCore and PaDiM with WideResNet-50-2, as published."""
        for name, more in FEATURES.items():
            method = name.split()[0]
            words = [*self.sets[self.first], f"experiment={method}_paper", *more]
            work = partial(self.in_folder, self.code["fitted"].fitted, method, words, WIDE, None)
            yield Row("fitted", {"method": name, "backbone": WIDE, "data": self.first}, work)

    def budgets(self) -> Iterator[Row]:
        """The published trainings."""
        for row, words in BUDGETS.items():
            name = row.partition(",")[0]
            for data in self.sets:
                yield from self.trained(row, name, f"{name}_paper", data, words)

    def sized(self) -> Iterator[Row]:
        """Parts of the published trainings of flows and of methods that learn from painted defects."""
        for budget, (name, experiment, words, sets) in SIZED.items():
            for data in list(self.sets)[:sets]:
                yield from self.trained(f"{name}, {budget}", name, experiment, data, words)

    def trained(self, row: str, name: str, experiment: str, data: str, more: Iterable[str] = ()) -> Iterator[Row]:
        """The row of a training; none where weights are missing that it needs."""
        options, drawn = self.options, None
        if name not in (options.methods or [name]):
            return
        words = [*self.sets[data], f"experiment={experiment}", *self.code["steps"].NO_PICTURES, *more]
        if name in RESNET18:
            words += ["method.backbone.name=resnet18.tv_in1k", *RESNET18[name]]
            if options.resnet18:
                words += [f"method.backbone.weights={options.resnet18.absolute()}"]
            elif options.toy:
                drawn = "resnet18.tv_in1k"
            else:
                print(f"left out: {row} {data} wants --resnet18", flush=True)
                return
        words = self.words(name, words, drawn)
        if options.toy:
            words += ["data.patches=16", "budget.epochs=2", "augmentation=none"]
            words += ["method.encoder_epochs=1"] * (name == "f_anogan")
        key = {"method": row, "data": data}
        yield Row("budgets", key, partial(self.budget, words), partial(self.estimate, words))

    def estimate(self, words: list[str]) -> float:
        """Seconds of the whole, or of a part of it where the checkpoint can come back and be continued."""
        if not self.options.again and self.code["budgets"].run_of(words, self.work)[-1]:
            return 0.0
        counts = self.counts if self.options.toy else self.code["steps"].Counts(5, 20, 1)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            seconds, size = self.code["budgets"].estimate(words, Path(folder), counts)
        return SECONDS["budgets"] + (seconds if size > self.code["budgets"].LARGEST else min(seconds, 30.0))

    def budget(self, words: list[str]) -> dict[str, Any]:
        """A run until the time is over; half a minute is left for its checkpoint."""
        out, seconds = self.options.out.absolute(), self.guard.left - 30
        return self.code["budgets"].budget(words, self.work, out, seconds, self.options.again)


def commit() -> str:
    """The commit of the checkout; a copy without a history has none."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("steps", "evaluation", "budgets", "sized", "features"),
                        metavar="PART")  # fmt: skip
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders that hold the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--minutes", type=float, default=8, help="a row starts only if it fits (default 8)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "anomaly_lab_gpu",
                        help="folder of runs, weights and decoded images; a later command continues them")  # fmt: skip
    parser.add_argument("--resnet18", type=Path, help="weights of ImageNet up to layer3, for budgets and sized")
    parser.add_argument("--resume", type=Path, help="unfinished.tar of an earlier command")
    parser.add_argument("--commit", default="", help="of the rows, where the copy has no history")
    parser.add_argument("--methods", nargs="+", help="only these, of steps, budgets and sized")
    parser.add_argument("--again", action="store_true", help="measure known rows again, and train finished runs anew")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    options = parser.parse_args()
    guard = TimeGuard(options.minutes)
    if not sets_in(options.data):
        sys.exit(f"--data: expected folders with some of {', '.join(path for path, _ in SETS.values())}, found none")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device: expected a GPU, found none; --device cpu --toy tries the program without one")
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    if options.resume:
        with tarfile.open(options.resume) as archive:
            archive.extractall(options.work, filter="data")
    card = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    about = {"card": card + ", toy" * options.toy, "commit": options.commit or commit()}
    known = () if options.again else (options.out, HERE)
    tables = {name: Table(name, options.out, known) for name in TABLES}
    parts = Parts(options, guard)
    for part in options.parts:
        measure(getattr(parts, part)(), guard, tables, about)
    print(f"{guard.left:.0f} s left", flush=True)


if __name__ == "__main__":
    main()
