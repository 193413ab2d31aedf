#!/usr/bin/env bash
# experiments/slides_threshold/run.sh ROOT: the slides' model on three sets in ROOT, its line at three percentiles.
set -euo pipefail
export OMP_NUM_THREADS=1
here=experiments/slides_threshold
for set in mvtec_ad_small/transistor wood_boards_256 concrete_crack_700; do
  .venv/bin/python -m anomaly_lab method=slides_cae threshold=train_percentile experiment=quick data=folder \
    data.root="$1/$set" data.held_out=0.01 logger=none controls=false name=slides_threshold
  run=$(echo runs/slides_threshold/slides_cae/folder/"$(basename "$set")"/seed=0/*)
  for percentile in 25 95 99; do  # the line alone is drawn again, from the images of the training
    .venv/bin/python -m anomaly_lab threshold run="$run" normals="$1/$set/train/good" \
      threshold=train_percentile threshold.percentile=$percentile
  done
done
.venv/bin/python $here/results.py runs/slides_threshold | tee $here/results.csv
