"""Refusals of labelled photos that a method cannot learn from: `data.labelled_abnormal` and `data.fold`."""

from typing import Any

from omegaconf import OmegaConf

from anomaly_lab.config.files import CONF
from anomaly_lab.config.schema import class_fact
from anomaly_lab.core.errors import UserError


def check_amount(amount: Any) -> None:
    """Refuse what is neither a number of labelled photos nor a share or a folder: three types in one message."""
    is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
    if amount is None or (isinstance(amount, str) and amount):
        return
    if not is_number or not (0 < amount < 1 or (isinstance(amount, int) and amount >= 1)):
        raise UserError(
            "data.labelled_abnormal: expected a number of defective test photos, a share of them below 1, or a folder "
            f"of other ones, found {amount!r}"
        )


def check_labelled(resolved: dict[str, Any]) -> None:
    """Refuse labelled abnormal images for a method that would take them as normal, and patches of them."""
    amount, method = resolved["data"].get("labelled_abnormal"), resolved["method"]
    if method.get("labelled", amount is not None) != (amount is not None):
        raise UserError(
            f"method.labelled: expected {amount is not None}, as data.labelled_abnormal={amount} says, found "
            f"{method['labelled']}; type data.labelled_abnormal alone"
        )
    _check_fold(resolved)
    if amount is None:
        return
    if class_fact(method["_target_"], "supervised"):
        raise UserError(
            f"data.labelled_abnormal: expected none with method={method['name']}, which learns from all defective "
            f"photos outside its fold (data.fold), found {amount}"
        )
    if not class_fact(method["_target_"], "labelled"):
        raise UserError(
            f"data.labelled_abnormal: expected none, because method={method['name']} learns from good photos alone, "
            f"found {amount}; {' or '.join(takers('labelled'))} learns from defective ones too"
        )
    if class_fact(method["_target_"], "sees") == "patches" and resolved["data"]["kind"] == "texture":
        raise UserError(
            "data.labelled_abnormal: expected photos that are shown whole, because a patch of a defective one may show "
            "no defect, found data.kind=texture; type data.kind=object"
        )


def _check_fold(resolved: dict[str, Any]) -> None:
    """Refuse folds for a method that knows good images only, and such a method's learning from anything else."""
    fold, method = resolved["data"].get("fold"), resolved["method"]
    if class_fact(method["_target_"], "supervised"):
        if fold is None:
            raise UserError(
                f"data.fold: expected the number of a fold, 0 to {resolved['data']['folds'] - 1}, because "
                f"method={method['name']} learns from labelled photos of both kinds, found null"
            )
        if resolved["data"]["kind"] == "texture":
            raise UserError(
                f"data.kind: expected object with method={method['name']}, because a patch of a defective photo may "
                "show no defect, found texture"
            )
    elif fold is not None:
        raise UserError(
            f"data.fold: expected null, because method={method['name']} learns from good photos alone, found {fold}; "
            f"{' or '.join(takers('supervised'))} learns from both kinds"
        )


def takers(fact: str, wanted: str = "") -> list[str]:
    """The methods of which a fact holds, or has `wanted` among its values, as they are typed."""
    files = sorted((CONF / "method").glob("*.yaml"))
    targets = {file.stem: str(OmegaConf.select(OmegaConf.load(file), "_target_")) for file in files}
    facts = {name: class_fact(target, fact) for name, target in targets.items()}
    return [f"method={name}" for name, value in facts.items() if (wanted in value if wanted else value)]
