#!/usr/bin/env bash
# experiments/adversarial/run.sh ROOT METHOD [SEEDS...]: an adversarial method and the same network untrained, 64 px, one
# thread, minutes a row. ROOT holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and covid19_xray/.
set -euo pipefail
root=$1 method=$2 seeds=("${@:3}")
export OMP_NUM_THREADS=1

object="data.image_size=64"
texture="data.kind=texture data.image_size=256 data.patch_size=64 data.stride=32"
transistor="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=transistor $object"
wood="data=folder data.root=$root/wood_boards_256 $texture"
cracks="data=folder data.root=$root/concrete_crack_700 $texture"
xray="data=folder data.root=$root/covid19_xray $object"

for seed in "${seeds[@]:-0}"; do
  for data in "$transistor" "$wood" "$cracks" "$xray"; do
    lab=(.venv/bin/python -m anomaly_lab method="$method" data.batch_size=32 trainer=cpu logger=none callbacks.anomaly_maps=null)
    "${lab[@]}" name=adversarial data.patches=2000 budget.epochs=4 budget.schedule=cosine seed="$seed" $data
    # a rate that changes no weight: batch norm has seen 64 patches
    "${lab[@]}" name=adversarial_untrained data.patches=64 budget.epochs=1 method.optimizer.lr=1e-12 seed="$seed" $data
  done
done
