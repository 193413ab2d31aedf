#!/usr/bin/env bash
# experiments/quick_screw/run.sh ROOT: both methods with the laptop budget, ROOT holding the folder `screw`.
set -euo pipefail
for method in ssim_ae cae; do
  .venv/bin/python -m anomaly_lab method=$method experiment=quick data.root="$1" data.category=screw logger=none name=quick_screw
done
.venv/bin/python experiments/collect.py runs/quick_screw | tee experiments/quick_screw/results.csv
cp runs/quick_screw/ssim_ae/mvtec_ad/screw/seed=0/*/controls.csv experiments/quick_screw/controls.csv
