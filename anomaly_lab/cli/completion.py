"""`anomaly-lab completion`: a script with which a shell completes commands, their options and `KEY=VALUE`."""

from importlib import import_module

from anomaly_lab.cli.help import COMMANDS
from anomaly_lab.cli.options import parse

SCRIPT = r"""# Completion of anomaly-lab. bash: eval "$(anomaly-lab completion)"
# zsh: autoload -Uz compinit bashcompinit; compinit; bashcompinit; eval "$(anomaly-lab completion)"
_anomaly_lab() {
    local line=${COMP_LINE:0:$COMP_POINT} cut= choices= hydra= own= rest answer
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
    for answer in $own; do  # Hydra does not know the options of a command before the word
        [[ $words == *" $answer="*" "* ]] || continue
        rest=${words#*" $answer="}
        words="${words%%" $answer="*} ${rest#* }"
    done
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

OF_RUNS = {"select": {"method"}}  # commands that also take the keys of a run, and options of theirs that are such keys


def main(arguments: list[str]) -> None:
    """Print the script."""
    if parse(arguments, "completion", {}, ()) is None:
        return
    cases = []
    for command in (*COMMANDS, "help"):
        if command != "data":
            known = {} if command == "help" else getattr(import_module(f"anomaly_lab.cli.{command}"), "OPTIONS", {})
            ours = [name for name in known if name not in OF_RUNS.get(command, ())]
            keys = f' hydra=yes own="{" ".join(ours)}" words="-m ${{words#{command} }}"' if command in OF_RUNS else ""
            cases.append(f'        "{command} "*) choices="{" ".join(f"{name}=" for name in ours)}"{keys} ;;')
    print(SCRIPT.replace("@CASES@", "\n".join(cases)).replace("@COMMANDS@", " ".join((*COMMANDS, "help"))))
