#!/usr/bin/env bash
# experiments/fcdd/run.sh ROOT WEIGHTS [PART]: FCDD with confetti, and with patches, scars and blobs, beside its untrained
# network, on transistor and wood, three seeds, one thread; results.csv. ROOT holds mvtec_ad_small/ and wood_boards_256/;
# WEIGHTS is a ResNet-18 trained on ImageNet, up to layer3 at least. PART runs only the rows whose text (ROW DATA SEED)
# contains it; finished rows are skipped.
set -euo pipefail
root=$1 weights=$2 part=${3:-}
export OMP_NUM_THREADS=1
. "$(dirname "$0")/../sets.sh"

# The published rate and schedule, 1200 steps of 16 images; fixed before any result was seen.
row() {  # ROW DATA SEED WORDS...
  case "$1 $2 $3" in *"$part"*) ;; *) return 0 ;; esac
  .venv/bin/python -m anomaly_lab method=fcdd method.backbone.weights="$weights" trainer=cpu logger=none \
    callbacks.anomaly_maps=null ${data[$2]} data.kind=object data.image_size=128 data.patches=96 data.batch_size=16 \
    name="fcdd_$1" seed="$3" "${@:4}"
}

painted=anomaly_lab.data.corruption kinds=""
for kind in Patch Scar Blob; do kinds+="${kinds:+,}{_target_: $painted.$kind}"; done
for seed in 0 1 2; do
  for set in transistor wood; do
    row confetti $set $seed
    row synthetic $set $seed "data.corruption={_target_: $painted.AnyOf, probability: 0.5, corruptions: [$kinds]}"
  done
done
for set in transistor wood; do row untrained $set 0 budget.epochs=1 method.optimizer.lr=1e-12; done

.venv/bin/python experiments/table.py fcdd_ | tee experiments/fcdd/results.csv
