#!/usr/bin/env bash
# experiments/synthetic/run.sh ROOT [PART]: methods that learn from painted defects on five sets, small images and minutes of one
# CPU thread; results.csv. ROOT holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and covid19_xray/. PART runs only
# the rows whose text (ROW METHOD DATA SEED) contains it; finished rows are skipped.
set -euo pipefail
root=$1 part=${2:-}
export OMP_NUM_THREADS=1
. "$(dirname "$0")/../sets.sh"

seen=10000  # images in a training, repetitions counted; fixed before any result was seen

row() {  # ROW METHOD DATA SEED WORDS...
  case "$1 $2 $3 $4" in *"$part"*) ;; *) return 0 ;; esac
  .venv/bin/python -m anomaly_lab trainer=cpu logger=none callbacks=synthetic callbacks.anomaly_maps=null \
    name="synthetic_$1" method="$2" ${data[$3]} seed="$4" "${@:5}"
}

draem() {  # ROW DATA SEED SEEN WORDS...: an eighth of the channels
  epochs=$(($4 / ${images[$2]}))
  row "$1" draem "$2" "$3" data.image_size=64 method.width=16 method.segmentation_width=8 method.optimizer.lr=1e-3 \
    budget.epochs=$((epochs > 0 ? epochs : 1)) "${@:5}"
}

nsa() {  # ROW DATA SEED SEEN WORDS...: pieces of a few px differ little, so all that differs counts
  epochs=$(($4 / ${images[$2]}))
  row "$1" nsa "$2" "$3" data.image_size=64 data.batch_size=16 method.labels=binary budget.epochs=$((epochs > 0 ? epochs : 1)) "${@:5}"
}

cutpaste() {  # ROW DATA SEED SEEN WORDS...: of whole images one number
  row "$1" cutpaste "$2" "$3" data.kind=object data.image_size=64 data.patches="$4" budget.epochs=1 "${@:5}"
}

patches() {  # ROW DATA SEED SEEN WORDS...: windows of a quarter of the side, with a map
  row "$1" cutpaste "$2" "$3" data.kind=texture data.image_size=128 data.patch_size=32 data.stride=8 \
    data.patches="$4" budget.epochs=1 "${@:5}"
}

for seed in 0 1 2; do
  for set in transistor wood screw cracks xray; do
    draem base $set $seed $seen
    cutpaste base $set $seed $seen
    patches patches $set $seed $seen
    nsa base $set $seed $seen
  done
done
for set in transistor wood screw cracks xray; do
  draem untrained $set 0 1 method.optimizer.lr=1e-12
  cutpaste untrained $set 0 64 method.optimizer.lr=1e-12
  patches patches_untrained $set 0 64 method.optimizer.lr=1e-12
  nsa untrained $set 0 1 method.optimizer.lr=1e-12
done
for set in transistor wood; do
  draem sspcab $set 0 $seen method.block=sspcab
  draem own $set 0 $seen data.foreign_images=own
  draem part4 $set 0 $((seen / 4))
  draem part16 $set 0 $((seen / 16))
  cutpaste part4 $set 0 $((seen / 4))
done

.venv/bin/python experiments/table.py synthetic_ > experiments/synthetic/results.csv
cat experiments/synthetic/results.csv
