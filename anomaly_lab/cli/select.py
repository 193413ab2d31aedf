"""`python -m anomaly_lab select KEY=VALUE ...`: which method for these photos, within a given time."""

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from anomaly_lab.config.tables import TABLE, of_tables
from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from anomaly_lab.report.photo_counts import Photos
    from anomaly_lab.report.ranking import Contender

USAGE = "python -m anomaly_lab select [minutes=20] [portfolio=NAME] [labels=false] [--config-dir FOLDER] KEY=VALUE ..."
OPTIONS = {
    "minutes": "how long it may take (default: 20); it shortens the list of methods and ends no run in its middle",
    "method": "only these, separated by commas, beside the controls (default: all of the portfolio)",
    "portfolio": "the methods, a file of conf/select/ or of select/ in --config-dir (default: default)",
    "labels": "false ranks by painted defects alone, as without labelled photos",
}
HELP = f"""\
usage: {USAGE}
  KEY=VALUE: the data and any other key of a run, such as data=folder data.root=photos/ or data.category=screw,wood
{"".join(f"  {name}: {text}{chr(10)}" for name, text in OPTIONS.items())}\
Ranks the methods on your photos: with labelled test photos by image AUROC and AU-PRO, else by defects painted into good
photos that were held out. The same command again goes on where it was. Writes select.html.
"""
LEAST = 10  # good photos
RESERVE = 10.0  # seconds for ranking and page
CONTROL = 15.0  # seconds of a control on a data set; with labels, two may have to run at the end
SHORT = ("experiment=quick", "budget.", "data.batch_size=")  # words of a candidate that make its training shorter
OF_SELECT = ("callbacks=", "callbacks.synthetic", "name=", "rerun=")  # what it sets itself
RUN = ("name=select", "callbacks=select", "logger=none", "data.held_out=0.2")


class Request(NamedTuple):
    """The arguments of the command."""

    minutes: float
    portfolio: str
    labels: bool
    methods: list[str]  # none: all of the portfolio
    words: list[str]  # of the configuration
    folder: Path | None


def main(arguments: list[str]) -> None:
    """Try the methods, rank them, print the answer and write select.html."""
    if {"--help", "-h"} & set(arguments) or not arguments:
        print(HELP, end="")
        return
    began = time.monotonic()
    request = parse(arguments)
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from anomaly_lab.config.build import trusted
    from anomaly_lab.config.compose import compose
    from anomaly_lab.config.files import CONF
    from anomaly_lab.config.overrides import as_people_write, of_method, searched
    from anomaly_lab.config.resolvers import register
    from anomaly_lab.core.files import write_json, write_whole
    from anomaly_lab.core.messages import is_user_mistake
    from anomaly_lab.launch.jobs import Words, unpainted
    from anomaly_lab.launch.local import Local
    from anomaly_lab.launch.machine import cores, visible_gpus
    from anomaly_lab.launch.portfolio import (
        Candidate,
        Entry,
        Fitting,
        announced,
        chosen,
        contend,
        entries,
        is_of_training,
        portfolio,
        refuse_unread,
    )
    from anomaly_lab.launch.sweep import Composer
    from anomaly_lab.networks.hub import can_be_had
    from anomaly_lab.report.photo_counts import total, unused
    from anomaly_lab.report.ranking import Contender, rank, set_aside
    from anomaly_lab.report.select_page import page
    from anomaly_lab.report.selection import Facts, summary

    refuse_several(request.words, request.folder)
    candidates = chosen(portfolio(request.portfolio, request.folder), request.methods)
    refuse_unread(request.words, candidates)
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):

        def spread(words: Sequence[str]) -> list[Words]:
            return [tuple(as_people_write(of_method([*RUN, *each]))) for each in by_category(words)]

        def composed(words: Sequence[str]) -> "DictConfig":
            return compose(list(spread(words)[0]), request.folder)[0]

        of_data = [word for word in request.words if not is_of_training(word)]
        try:
            look = composed(["method=control", *of_data])
        except Exception as error:  # an experiment may name the data, or keys that no control has
            plain = [word for word in of_data if not word.startswith("experiment=")]
            if plain == of_data or not is_user_mistake(error):
                raise
            look = composed(["method=control", *plain])
        if look.data.datamodule._target_ == TABLE:  # mistakes end here
            raise UserError(f"select: expected photos, found data=table; compare {' and '.join(of_tables())} with -m")
        config = hydra.compose("train", searched(request.folder), return_hydra_config=True)
        composer = Composer(GlobalHydra.instance().config_loader(), config)
        fitting = Fitting(request.words, bool(visible_gpus()), can_be_had)
        found = entries(candidates, lambda candidate: fitting.words(candidate, composed), composer, spread)
        first = next(entry for entry in found if entry.jobs)
        sets = looked_at([job.config for job in first.jobs])
        photos = total(sets)
        labelled = request.labels and all(each.labelled for each in sets.values())
        left = seconds_for_methods(request.minutes, len(sets), labelled)
        if line := unused(sets, request.labels):
            print(line, flush=True)
        if not labelled:
            refuse_without_kinds({entry.name: unpainted(entry.jobs[0].config) for entry in found if entry.jobs})
        if look.dry_run:
            print("\n".join(announced(found, photos.seen, left)))
            return
        launcher = Local(jobs=1, threads=cores())

        def tried(which: Sequence[Entry], seconds: float) -> list[Contender]:
            try:
                return contend(which, launcher, config, seconds, photos.seen, began, labelled)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("interrupted; the same command goes on where it was") from None

        contenders = tried(found, left)
        if labelled and (kinds := strongest_controls(contenders)):
            print(f"the strongest of the other controls run too: {', '.join(kinds)}", flush=True)
            controls = {
                kind: Candidate(
                    words=("method=control", f"method.kind={kind.removeprefix('control_')}"),
                    seconds=CONTROL,
                    per_photo=0.02,
                )
                for kind in kinds
            }
            try:
                again = entries(controls, lambda candidate: fitting.words(candidate, composed), composer, spread)
            except UserError as error:  # such as keys of an experiment that a control has not; the others have run
                contenders += [Contender(kind, state="left out", note=str(error)) for kind in kinds]
            else:
                contenders += tried(again, math.inf)
    basis = "labels" if labelled else "synthetic"
    set_aside(contenders, basis)
    for each in contenders:  # before the ranking, which is refused where none has a result
        if not each.runs:
            print(printable(f"{each.state}: {each.name} ({each.note})"), flush=True)
    ranking = rank(contenders, basis)
    facts = Facts(sets, (time.monotonic() - began) / 60)
    best = ranking.standings[0].contender
    chosen_one = next(entry for entry in found if entry.name == best.name)
    its = chosen_one.jobs[0].config
    typed = chosen_one.words[len(chosen_one.candidate.words) :]
    steps = next_steps(
        best, chosen_one.candidate.words, typed, its["method"]["_target_"], request.folder, trusted(its["trust"])
    )
    answer = summary(ranking, contenders, facts, steps) | {"asked": arguments}
    show(answer)
    out = Path(its["runs_dir"]) / its["name"] / "+".join(sets)
    if earlier := replaced(out / "select.json", arguments):
        print(f"replaces the answer to: {printable(shlex.join(['select', *earlier]))}")
    write_json(out / "select.json", answer)
    write_whole(out / "select.html", lambda part: part.write_text(page(answer, ranking), encoding="utf-8"))
    print(f"page: {out / 'select.html'}")


def seconds_for_methods(minutes: float, sets: int, labelled: bool) -> float:
    """What is left of the time without the ranking and, with labels, two more controls on each data set."""
    return 60 * minutes - RESERVE - (2 * CONTROL * sets if labelled else 0)


def strongest_controls(contenders: Sequence["Contender"]) -> list[str]:
    """The controls with the highest mean of a measure by the tables of the runs, but for those that are contenders."""
    from anomaly_lab.report.ranking import MEASURES
    from anomaly_lab.runs.measures import UNTRAINED

    runs = next((each.runs for each in contenders if each.runs and not each.is_control), [])
    kinds = sorted({kind for run in runs for kind in run.controls} - {UNTRAINED})  # which is no method of its own
    found = dict[str, None]()
    for measure in MEASURES["labels"]:
        means = {kind: fmean(run.controls.get(kind, {}).get(measure, math.nan) for run in runs) for kind in kinds}
        known = [(mean, kind) for kind, mean in means.items() if not math.isnan(mean)]
        found |= {f"control_{max(known)[1]}": None} if known else {}
    return [name for name in found if name not in {each.name for each in contenders if each.runs}]


def next_steps(
    best: "Contender",
    own: Sequence[str],
    typed: Sequence[str],
    method: str,
    folder: Path | None = None,
    trust: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """The commands that follow: train with all that a run has, and for each data set predict and export.

    `own`, `typed`: of the command of its runs, without what all of them share: the words of the candidate, whose short
    budget is left out, and those of the user; keys of other methods are left out. `method`: the path of its class,
    which may say that no run becomes one file. `folder`, `trust`: of somebody's own files and packages.
    """
    from anomaly_lab.cli.methods import exportable
    from anomaly_lab.config.overrides import of_method

    kept = [word for word in own if not word.startswith(SHORT)]
    whole = of_method([*kept, *typed])
    is_longer = len(kept) < len(own) and not any(word.startswith(SHORT) for word in typed)
    several = len(best.runs) > 1
    longer = "for as long as the method's file says" if is_longer else "with its pictures and curves"
    files = [f"--config-dir={folder}"] if folder else []
    steps = [(f"train {longer}", ["-m"] * several + files + whole)]
    packages = [f"trust={','.join(trust)}"] if trust else []
    exports = exportable(method)
    sometimes = ", if its settings allow it" if exports == "some" else ""
    for run in best.runs:
        of = f" of {run.key.category}" if several else ""
        steps.append((f"look at new photos{of}", ["predict", f"run={run.folder}", "source=new_photos/", *packages]))
        if exports != "no":
            what = f"make one file{of} that needs no anomaly_lab{sometimes}"
            steps.append((what, ["export", f"run={run.folder}", "format=onnx", *packages]))
    return [(what, shlex.join(["python", "-m", "anomaly_lab", *words])) for what, words in steps]


def replaced(answer: Path, arguments: Sequence[str]) -> list[str]:
    """What an earlier answer was asked, if it was something else than more minutes."""
    from anomaly_lab.runs.folder import read_object

    if not answer.is_file():
        return []
    asked = read_object(answer).get("asked")
    earlier = [str(word) for word in asked] if isinstance(asked, list) else []
    one, other = ({word for word in words if not word.startswith("minutes=")} for words in (earlier, arguments))
    return [] if one == other else earlier


def show(found: dict[str, Any]) -> None:
    """Print the table, the answer and the commands."""
    from rich.console import Console
    from rich.table import Column, Table

    from anomaly_lab.report.selection import number

    measures = [name for name in found["measures"] if any(name in row["figures"] for row in found["ranking"])]
    table = Table(
        Column("method", overflow="fold"), *(found["measures"][name] for name in measures), "s a photo", "minutes", ""
    )
    for place, row in enumerate(found["ranking"]):
        cells = [figure_text(row["figures"].get(name), number) for name in measures]
        mark = "control" if row["control"] else "first" if not place else "tied with it" if row["tied"] else ""
        table.add_row(row["name"], *cells, f"{row['seconds']:.2g}", f"{row['minutes']:.1f}", mark,
                      style="dim" if row["control"] else None)  # fmt: skip
    Console().print(table)
    for sentence in found["sentences"]:
        print(printable(sentence))
    for line in found["commands"]:
        print(f"{line['what']}:\n  {printable(line['command'])}")


def figure_text(figure: dict[str, float] | None, number: Callable[[float], str]) -> str:
    """A figure with its interval; a dash where there is none."""
    return (
        "–" if figure is None else "{} ({} to {})".format(*(number(figure[part]) for part in ("value", "low", "high")))
    )


def parse(arguments: Sequence[str]) -> Request:
    """The arguments. Raises UserError for one that is no key=value, and for minutes that are none."""
    from anomaly_lab.cli.options import switch
    from anomaly_lab.config.files import config_folder

    words, folder = config_folder(arguments)
    if alone := [word for word in words if "=" not in word]:
        raise UserError(f"select: expected {USAGE}, found {alone[0]!r}")
    options = {name: value for name, _, value in (word.partition("=") for word in words) if name in OPTIONS}
    rest = [word for word in words if word.partition("=")[0] not in OPTIONS]
    methods = [name for word in words if word.startswith("method=") for name in word[len("method=") :].split(",")]
    try:
        minutes = float(options.get("minutes", 20))
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise UserError(f"minutes: expected a number above 0, found {options['minutes']!r}")
    for word in rest:
        if word.lstrip("+~").startswith(OF_SELECT):
            raise UserError(f"select: expected no {word.partition('=')[0]}=, because it compares runs of its own")
        key, _, value = word.lstrip("+").partition("=")
        if key == "data.labelled_abnormal" and value != "null":
            raise UserError(
                f"select: expected no {key}=, because it compares methods that learn from good photos alone, found "
                f"{value}; learn from defective ones in a run: python -m anomaly_lab method=NAME {key}={value}"
            )
    labels = switch(options, "labels", True)
    return Request(minutes, options.get("portfolio", "default"), labels, methods, rest, folder)


def refuse_several(words: Sequence[str], folder: Path | None = None) -> None:
    """Raise UserError for a key with several values, of which a sweep makes a run each. Categories are data sets."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from anomaly_lab.config.overrides import as_people_write

    parser = OverridesParser.create()
    for word in by_category(words)[0]:
        try:
            several = any(parser.parse_override(each).is_sweep_override() for each in as_people_write([word]))
        except HydraException:  # of which the run says more
            continue
        if several:
            key, _, value = word.partition("=")
            files = [f"--config-dir={folder}"] if folder else []
            as_list = f" (as a list: {key}=[{value}])" if "(" not in value and takes_list(key) else ""
            raise UserError(
                f"{key}: expected one value, found {value!r}{as_list}; select ranks methods for one at a time; when it "
                "has named some, compare the values in a sweep: "
                f"{shlex.join(['python', '-m', 'anomaly_lab', '-m', *files, 'method=A,B', *words])}"
            )


def takes_list(key: str) -> bool:
    """Whether a file of the configuration has a list under a key, `method.` or the name of a method before it."""
    import yaml

    from anomaly_lab.config.files import CONF

    section, *names = key.lstrip("+").split(".")
    files = [*(CONF / section).glob("*.yaml"), CONF / "method" / f"{section}.yaml"] if names else [CONF / "train.yaml"]
    for path in filter(Path.is_file, files):
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name in names or [section]:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, list):
            return True
    return False


def by_category(words: Sequence[str]) -> list[list[str]]:
    """The words for each category of `data.category=a,b`; pools such as `all` stay."""
    several = next((word for word in words if word.startswith("data.category=") and "," in word), None)
    if several is None:
        return [list(words)]
    key, _, names = several.partition("=")
    return [[f"{key}={name}" if word == several else word for word in words] for name in names.split(",")]


def refuse_without_kinds(kinds: Mapping[str, frozenset[str]]) -> None:
    """Raise UserError where no kind counts for all methods. One without any kind is refused by its own run."""
    some = {name: kept for name, kept in kinds.items() if kept}
    every = frozenset[str]().union(*some.values())
    if some and not frozenset.intersection(*some.values()):
        left = [
            f"{name} leaves out {', '.join(sorted(every - count))}" for name, count in some.items() if every - count
        ]
        raise UserError(
            "select: expected a kind of painted defect with which no method is trained, found none: "
            f"{'; '.join(left)}; set method= to fewer of them"
        )


def looked_at(configs: Sequence[dict[str, Any]]) -> "dict[str, Photos]":
    """What `data check` says of the data sets, and how many photos each has. Raises UserError for too few."""
    from anomaly_lab.cli.data_check import examined, refuse_unreadable
    from anomaly_lab.report.photo_counts import Photos

    found = {}
    for resolved in configs:
        data, _ = examined(resolved)
        refuse_unreadable(data, resolved)
        good, held_out = len(data.train_samples), len(data.held_out_samples)
        if good + held_out < LEAST:
            raise UserError(
                f"select: expected at least {LEAST} good photos of {resolved['data']['category']}, found "
                f"{good + held_out}: fewer cannot tell methods apart"
            )
        labels = [sample.label for sample in data.test_samples]
        found[str(resolved["data"]["category"])] = Photos(good, held_out, labels.count(0), labels.count(1))
    return found
