#!/usr/bin/env bash
# experiments/results/run.sh ROOT WEIGHTS [SEEDS [SETS [METHODS]]]: `select` over all methods that train within 20 minutes
# of a core, on six sets; results.csv, agreement.csv. ROOT holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and
# covid19_xray/; WEIGHTS is a ResNet-18 trained on ImageNet, up to layer3 at least. SEEDS and SETS are lists in quotes,
# METHODS a list with commas. The same command goes on where it was.
set -euo pipefail
root=$(realpath "$1") weights=$(realpath "$2") seeds=${3:-0 1 2} methods=${5:-}
sets=${4:-transistor wood screw viral_pneumonia covid cracks}
export OMP_NUM_THREADS=1
mkdir -p runs/results_data

untrained=runs/results_untrained.safetensors
[ -e $untrained ] || .venv/bin/python - $untrained <<'PYTHON'
import sys, timm, torch
from safetensors.torch import save_file
torch.manual_seed(0)
save_file(timm.create_model("resnet18", features_only=True, pretrained=False, out_indices=(3,)).state_dict(), sys.argv[1])
PYTHON

for kind in covid viral_pneumonia; do  # each with the same good X-rays
  mkdir -p runs/results_data/$kind/test
  ln -sfn "$root/covid19_xray/train" runs/results_data/$kind/train
  for part in good $kind; do ln -sfn "$root/covid19_xray/test/$part" runs/results_data/$kind/test/$part; done
done

declare -A data=(
  [screw]="portfolio=object data=mvtec_ad data.root=$root/mvtec_ad_small data.category=screw"
  [transistor]="portfolio=object data=mvtec_ad data.root=$root/mvtec_ad_small data.category=transistor"
  [wood]="portfolio=texture data=folder data.root=$root/wood_boards_256 data.category=wood data.kind=texture"
  [cracks]="portfolio=texture data=folder data.root=$root/concrete_crack_700 data.category=cracks data.kind=texture"
  [viral_pneumonia]="portfolio=object data=folder data.root=runs/results_data/viral_pneumonia data.category=viral_pneumonia"
  [covid]="portfolio=object data=folder data.root=runs/results_data/covid data.category=covid"
)
for seed in $seeds; do
  for set in $sets; do
    lab=(.venv/bin/python -m anomaly_lab select --config-dir experiments/results minutes=100000 ${data[$set]} seed="$seed"
      ${methods:+method=$methods} method.backbone.weights="$weights" trainer=cpu runs_dir="runs/results/seed$seed")
    for labels in false true; do
      "${lab[@]}" labels=$labels
      cp "runs/results/seed$seed/select/$set/select.json" "runs/results/seed$seed/${set}_labels=$labels.json"
    done
  done
done
.venv/bin/python experiments/results/results.py runs/results
