"""Overrides as people type them, and as Hydra wants them.

- Arguments of constructors that no file of `conf/` mentions need no `+`.
- Paths need no quotes inside quotes, whatever characters they have; `~` is the home.
- `METHOD.KEY=VALUE` counts for the jobs of that method alone, so that a sweep can hold settings of each of its methods.
- `logger=[wandb,csv]` opens both.
- `data.region=1,2,30,40` is a list, not a sweep.
- Names in `data.good=[gut ü,良]` need no quotes, and one alone no brackets; nor do letters beyond ASCII elsewhere.
- `method.backbone=offline` is the model whose weights the extra `offline` installs, and these weights.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from anomaly_lab.config.files import CONF
from anomaly_lab.config.schema import parameters_of
from anomaly_lab.core.errors import UserError, unknown_key
from anomaly_lab.networks.offline import MODEL, OFFLINE

Composed = TypeVar("Composed")
FLAGS = {"-m", "--multirun"}
NUMBERS = re.compile(r"(data\.(?:region|value_range))=(-?[\d.]+(?:,-?[\d.]+)+)")
PATHS = r"runs_dir|data\.category|[\w.]+\.(?:root|region|cache_dir|labelled_abnormal|weights|foreign_images|save_dir)"
PATH = re.compile(rf"(\+{{0,2}}(?:{PATHS}))=(.+)", re.DOTALL)
SWEEP = r"(?:choice|range|interval|tag|glob|sort|shuffle|int|float)\(.*\)"
OF_HYDRA = re.compile(rf"null|true|false|(['\"]).*\1|\[[\d., -]+\]|.*\$\{{.*|{SWEEP}", re.DOTALL)  # no path
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)  # no folder, where a number may stand
NEEDS_NO_QUOTES = re.compile(r"[\w./-]*[A-Za-z_/][\w./-]*", re.ASCII)
GOOD = re.compile(r"(\+{0,2}data\.(?:good|leave_out))=(.+)", re.DOTALL)
BEYOND_ASCII = re.compile(  # plain text, or a flat list of it
    r"(\+{0,2}[\w.@/]+)=((?=.*[^\x00-\x7f])(?:\[[^][{}()'\"$=]+\]|[^][{}()'\"$=]+)(?:,\[[^][{}()'\"$=]+\])*)", re.DOTALL
)
BACKBONE = re.compile(rf"(\+{{0,2}}[\w.]+\.backbone)={OFFLINE}")
LOGGERS = re.compile(r"logger=\[(\w+(?:,\w+)*)\]")
NULL = "__null__"  # in a choice of one value, for which Hydra takes no null
WORD = re.compile(r"(\+{0,2})(\w+)(\.[\w.]+)=(.+)", re.DOTALL)  # plus, first part of the key, rest of it, value


def as_people_write(arguments: Sequence[str]) -> list[str]:
    """Arguments for Hydra, from those of a command line: flags first, then the words, rewritten where it needs it."""
    flags = [word for word in arguments if word in FLAGS]
    words = [each for word in arguments if word not in FLAGS for each in _rewritten(word, bool(flags))]
    if flags:
        return [*flags, *_of_jobs(words)]
    job = of_method(words)
    if len(job) < len(words):
        raise UserError(
            f"{' '.join(words)}: expected keys of the method of the run, found keys of another one; a sweep (-m) "
            "gives each method its own"
        )
    return job


def of_method(words: Sequence[str], methods: Iterable[str] = ()) -> list[str]:
    """The words of one job: `METHOD.KEY=VALUE` becomes `method.KEY=VALUE` for that method and is left out for others.

    `methods` are names beside those of conf/method. Without a word `method=...` all words keep their keys.
    """
    method = next((word.partition("=")[2] for word in reversed(words) if word.startswith("method=")), None)
    known, job = {*_methods(), *methods}, []
    for word in (f"{word.removesuffix(NULL)}null" if word.endswith(f"={NULL}") else word for word in words):
        found = WORD.fullmatch(word)
        if method is None or found is None or found[2] not in {*known, method}:
            job.append(word)
        elif found[2] == method:
            job.append(f"{found[1]}method{found[3]}={found[4]}")
    return job


def _of_jobs(words: list[str]) -> list[str]:
    """The words of a sweep: those for one of several methods become choices, which Hydra gives to the jobs alone.

    It would apply them to the configuration of the sweep too, which has the default method.
    """
    named = {name for word in words if word.startswith("method=") for name in word.partition("=")[2].split(",")}
    ours = {*_methods(), *named} | ({"method"} if len(named) > 1 else set())
    changed = []
    for word in words:
        found = WORD.fullmatch(word)
        if found and found[2] in ours and len(_parts(found[4])) == 1 and not re.fullmatch(SWEEP, found[4]):
            value = NULL if found[4].lower() == "null" else found[4]
            word = f"{found[1]}{found[2]}{found[3]}=choice({value})"
        changed.append(word)
    return changed


def _rewritten(word: str, is_sweep: bool) -> list[str]:
    """One word as those that Hydra understands."""
    if several := LOGGERS.fullmatch(word):
        first, *more = dict.fromkeys(several[1].split(","))
        return [f"logger={first}", *(f"+logger@logger.{name}={name}" for name in more)]
    if backbone := BACKBONE.fullmatch(word):
        return [f"{backbone[1]}.name={MODEL}", f"{backbone[1]}.weights={OFFLINE}"]
    word = NUMBERS.sub(r"\1=[\2]", word)
    path = PATH.fullmatch(word)
    names = GOOD.fullmatch(word) or (None if path else BEYOND_ASCII.fullmatch(word))
    if names and not OF_HYDRA.fullmatch(names[2]):
        values = _parts(names[2])
        if is_sweep or len(values) == 1:
            return [f"{names[1]}={','.join(_plain(value, names.re is GOOD) for value in values)}"]
    if path is None or OF_HYDRA.fullmatch(path[2]):
        return [word]
    values = _parts(path[2]) if is_sweep and not Path(path[2]).exists() else [path[2]]
    counts = path[1].endswith("labelled_abnormal")
    return [f"{path[1]}={','.join(_quoted(value, counts) for value in values)}"]


def _quoted(path: str, counts: bool) -> str:
    """A path of the home or of elsewhere, in quotes where it needs them; what is no path stays as it is.

    `counts`: so does a number.
    """
    if OF_HYDRA.fullmatch(path) or (counts and NUMBER.fullmatch(path)):
        return path
    path = str(Path(path).expanduser())
    return path if NEEDS_NO_QUOTES.fullmatch(path) else QuotedString(path, Quote.single).with_quotes()


def _plain(value: str, is_list: bool) -> str:
    """A text or a flat list of texts, in quotes where they need them; with `is_list` one text is a list, too."""
    listed = value.startswith("[") and value.endswith("]")
    texts = [text.strip() for text in _parts(value[1:-1])] if listed else [value]
    quoted = [
        text
        if re.fullmatch(r"(['\"]).*\1", text) or NEEDS_NO_QUOTES.fullmatch(text) or NUMBER.fullmatch(text)
        else QuotedString(text, Quote.single).with_quotes()
        for text in texts
    ]
    return f"[{','.join(quoted)}]" if listed or is_list else quoted[0]


def _parts(value: str) -> list[str]:
    """The parts of a value between commas, but for those within quotes or brackets."""
    return re.findall(r"(?:'[^']*'|\"[^\"]*\"|\[[^]]*\]|\{[^}]*\}|\([^)]*\)|[^,])+", value)


def _methods() -> set[str]:
    return {path.stem for path in (CONF / "method").glob("*.yaml")}


def composed(compose: Callable[[list[str]], Composed], words: Sequence[str]) -> tuple[Composed, list[str]]:
    """The configuration composed from these words, and the words with a `+` where Hydra needs it.

    Raises the exceptions of Hydra, and UserError for a key that is no argument of the constructor.
    """
    overrides = list(words)
    while True:
        try:
            return compose(overrides), overrides
        except ConfigCompositionException as error:
            overrides = _added(overrides, error)


def searched(folder: Path | None) -> list[str]:
    """The word by which Hydra's `compose` finds files in a folder, too, as its program does by `--config-dir`."""
    return [f"hydra.searchpath=[{QuotedString(f'file://{folder}', Quote.single).with_quotes()}]"] if folder else []


def _added(words: list[str], error: ConfigCompositionException) -> list[str]:
    """The words with a `+` before the one that Hydra refused, if it sets an argument of the constructor there."""
    parent, key, where = (getattr(error.__cause__, name, None) for name in ("parent_node", "key", "full_key"))
    if not isinstance(parent, DictConfig) or "_target_" not in parent or key in parent:
        raise error
    parameters = parameters_of(parent["_target_"])
    if parameters is None:
        raise error
    known = dict.fromkeys([*(str(each) for each in parent), *parameters])
    names = [name for name in known if not name.startswith("_") and name not in {"tiling", "wants"}]  # from `tilings`
    added = [
        f"+{word}" if word.startswith((f"{where}=", f"{str(where).rpartition('.')[0]}={{")) else word for word in words
    ]
    if key not in names or added == words:
        raise unknown_key(str(where), names) from error
    return added
