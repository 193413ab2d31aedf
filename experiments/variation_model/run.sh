#!/usr/bin/env bash
# experiments/variation_model/run.sh ROOT: with and without alignment and region on screw, ROOT holding its folder.
set -euo pipefail
lab() {
  .venv/bin/python -m anomaly_lab method=variation_model data.root="$1" data.category=screw logger=none trainer=cpu "${@:2}"
}
for seed in 0 1 2; do
  lab "$1" seed=$seed name=variation_none method.images=30
  lab "$1" seed=$seed name=variation_rigid method.alignment=rigid method.images=30
  lab "$1" seed=$seed name=variation_rigid_foreground method.alignment=rigid method.region=foreground method.images=30
done
explore="method.alignment=rigid method.region=foreground method.images=30"
lab "$1" name=explored_floor $explore method.minimum_deviation=0.078431
lab "$1" name=explored_512 $explore data.image_size=512
lab "$1" name=explored_correlation $explore method.minimum_correlation=0.9
lab "$1" name=variation_all_images method.alignment=rigid method.region=foreground
.venv/bin/python experiments/collect.py runs | grep -E '^(run|variation_|explored_)' | tee experiments/variation_model/results.csv
for run in runs/variation_rigid_foreground/variation_model/mvtec_ad/screw/seed=*/*; do
  .venv/bin/python experiments/variation_model/mask_alone.py "$run"
done
cp runs/variation_rigid_foreground/variation_model/mvtec_ad/screw/seed=0/*/controls.csv experiments/variation_model/controls.csv
