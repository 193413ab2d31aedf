"""`anomaly-lab completion`: a script with which a shell completes commands, their options and `KEY=VALUE`."""

from importlib import import_module

from anomaly_lab.cli.help import COMMANDS
from anomaly_lab.cli.options import parse

SCRIPT = r"""# Completion of anomaly-lab. bash: eval "$(anomaly-lab completion)"
# zsh: autoload -Uz compinit bashcompinit; compinit; bashcompinit; eval "$(anomaly-lab completion)"
_anomaly_lab() {
    local line=${COMP_LINE:0:$COMP_POINT} cut= choices= hydra= answer
    local word=${line##* } words=${line#*"$1"}  # from the line: bash parts its words at =
    words=${words# }
    case $words in
@CASES@
        "data check "*) hydra=yes words=${words#data check } ;;
        "data cache "*) choices="clear data.cache_dir=" ;;
        "data "*) choices="check cache" ;;
        *" "*) hydra=yes ;;
        *) choices="@COMMANDS@" hydra=yes ;;
    esac
    if [[ -n $hydra ]]; then  # it reads the configuration, in a second or two
        choices="$choices $(COMP_LINE="anomaly-lab $words" "$1" -sc query=bash 2>/dev/null)"
    fi
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && cut=${word%=*}=
    COMPREPLY=()
    for answer in $choices; do
        [[ $answer == "$word"?* ]] || continue
        answer=${answer#"$cut"}
        [[ $answer == *[=./] ]] || answer="$answer "
        COMPREPLY+=("$answer")
    done
}
complete -o nospace -o default -F _anomaly_lab anomaly-lab"""


def main(arguments: list[str]) -> None:
    """Print the script."""
    if parse(arguments, "completion", {}, ()) is None:
        return
    cases = []
    for command in (*COMMANDS, "help"):
        if command != "data":
            known = {} if command == "help" else getattr(import_module(f"anomaly_lab.cli.{command}"), "OPTIONS", {})
            cases.append(f'        "{command} "*) choices="{" ".join(f"{name}=" for name in known)}" ;;')
    print(SCRIPT.replace("@CASES@", "\n".join(cases)).replace("@COMMANDS@", " ".join((*COMMANDS, "help"))))
