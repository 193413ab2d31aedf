#!/usr/bin/env bash
# experiments/supervised/run.sh ROOT WEIGHTS [PART]: classifiers that learn from labels of both kinds, five folds, small images
# and minutes of one CPU thread; results.csv. ROOT holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and
# covid19_xray/; WEIGHTS is a ResNet-18 trained on ImageNet, up to layer3 at least. PART runs only the rows whose text
# (ROW DATA) contains it; finished runs are skipped.
set -euo pipefail
root=$1 weights=$2 part=${3:-}
export OMP_NUM_THREADS=1
. "$(dirname "$0")/../sets.sh"

row() {  # ROW DATA WORDS...: five folds, each of which tests a fifth of all photos; 10 epochs, fixed before any result was seen
  case "$1 $2" in *"$part"*) ;; *) return 0 ;; esac
  for fold in 0 1 2 3 4; do
    .venv/bin/python -m anomaly_lab method=supervised threshold=own trainer=cpu logger=none controls=false \
      callbacks.anomaly_maps=null callbacks.curves=null callbacks.pictures=null callbacks.gallery=null \
      ${data[$2]} data.kind=object data.image_size=128 data.patches=null data.batch_size=16 budget.epochs=10 \
      data.fold=$fold name="supervised_$1" "${@:3}"
  done
}

layers="method.backbone.layers=[stride16] method.backbone.weights=$weights"
for set in transistor wood xray cracks; do
  row pretrained $set $layers
  row random $set "method.backbone.layers=[stride16]" method.backbone.fine_tuned=false method.backbone.trainable=true
done

.venv/bin/python experiments/supervised/folds.py runs/supervised_* | tee experiments/supervised/results.csv
