"""How steady is a score from checkpoint to checkpoint? `python experiments/adversarial/steadiness.py RUN... > CSV`

RUN: the folder of a run that kept the weights of every epoch (`run.sh` does). For the last four of them, and for their
average, each possible score (the method's own, that of its map) of held-out normal images and of test images. What
would choose a schedule or a score looks at held-out images only: `drift`, how far the mean score lies from that of the
last epoch, in its deviations between images, and `agreement`, the rank correlation with it. `image_auroc` is beside.
"""

import contextlib
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import spearmanr

from anomaly_lab.config.resolvers import resolve
from anomaly_lab.data.placement import content
from anomaly_lab.functional.scores import default_score
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.runs.checkpoint import load_checkpoint

LAST = 4
KINDS = ("covid", "viral_pneumonia")  # of abnormal X-rays, told apart; other data: all defects

torch.set_num_threads(1)
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(("schedule", "method", "data", "seed", "score", "weights", "drift", "agreement", "image_auroc"))


def scores(method, data, loader):
    """The two scores of every image."""
    found = []
    with torch.inference_mode():
        for batch in loader:
            batch = data.moved(batch, torch.device("cpu"))
            answer = method(batch.image, batch.placement)
            of_map = default_score(answer.anomaly_map, content(batch.placement, batch.image))
            found.append(torch.stack([answer.score, of_map], dim=1))
    return torch.cat(found).numpy()


def average(states):
    """The mean of each weight; whole numbers, which count batches, as they are in the last."""
    mean = {name: torch.stack([state[name] for state in states]).float().mean(dim=0) for name in states[-1]}
    return {name: mean[name] if value.is_floating_point() else value for name, value in states[-1].items()}


for run in map(Path, sys.argv[1:]):
    config = resolve(OmegaConf.load(run / ".hydra" / "config.yaml"))
    data, method = instantiate(config["data"]["datamodule"], _convert_="all"), build_method(config).eval()
    with contextlib.redirect_stdout(sys.stderr):  # what it says is no row
        data.setup("fit")
    kept = sorted((run / "checkpoints").glob("epoch=*.ckpt"), key=lambda path: int(path.name.split("=")[1][:-5]))
    states = [load_checkpoint(path)["state_dict"] for path in kept[-LAST:]]
    assert len(states) == LAST, f"expected the weights of every epoch in {run}/checkpoints"
    answers = {}
    for number, state in enumerate([*states, average(states)]):
        method.load_state_dict(state)
        name = "average" if number == LAST else f"last - {LAST - 1 - number}" if number < LAST - 1 else "last"
        held_out, test = (scores(method, data, load()) for load in (data.predict_dataloader, data.test_dataloader))
        answers[name] = held_out, test
    labels = np.array([sample.label for sample in data.test_samples])
    defects = np.array([sample.defect for sample in data.test_samples])
    kinds = KINDS if set(KINDS) <= set(defects) else ("",)
    schedule = config["budget"]["schedule"] + (" long" if config["name"].endswith("_long") else "")
    place = (schedule, config["method"]["name"])
    for column, score in enumerate(("own", "map")):
        last = answers["last"][0][:, column]
        for weights, (held_out, test) in answers.items():
            drift = (held_out[:, column].mean() - last.mean()) / last.std()
            agreement = spearmanr(held_out[:, column], last).statistic
            for kind in kinds:
                abnormal = test[(defects == kind) if kind else labels == 1, column]
                image_auroc = rank(test[labels == 0, column], abnormal).auroc().value
                numbers = [f"{number:.3f}" for number in (drift, agreement, image_auroc)]
                writer.writerow((*place, kind or run.parts[-3], run.parts[-2][5:], score, weights, *numbers))
    sys.stdout.flush()
