#!/usr/bin/env bash
# experiments/few_photos/run.sh ROOT WEIGHTS [PART]: padim and patchcore with 10, 20, 50, 100 and all good photos; results.csv.
# ROOT holds mvtec_ad_small/ and wood_boards_256/; WEIGHTS is a ResNet-18 trained on ImageNet, up to layer3 at least.
# PART runs only the rows whose text (METHOD DATA SEED NUMBER) contains it; finished rows are skipped.
set -euo pipefail
root=$1 weights=$2 part=${3:-}
export OMP_NUM_THREADS=1

transistor="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=transistor"
wood="data=folder data.root=$root/wood_boards_256 data.category=wood_boards_256 data.kind=texture data.image_size=256"

for seed in 0 1 2; do
  for name in transistor wood; do
    for number in 10 20 50 100 all; do
      [ $name-$number = wood-100 ] && continue  # there are 70
      for method in padim patchcore; do
        case "$method $name $seed $number" in *"$part"*) ;; *) continue ;; esac
        .venv/bin/python -m anomaly_lab trainer=cpu logger=none callbacks.anomaly_maps=null callbacks.curves=null \
          method=$method method.backbone.weights="$weights" name="few_photos_$number" ${!name} seed=$seed \
          data.good_photos=${number/all/null}
      done
    done
  done
done

.venv/bin/python experiments/table.py few_photos_ > experiments/few_photos/results.csv
cat experiments/few_photos/results.csv
