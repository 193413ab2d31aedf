#!/usr/bin/env bash
# experiments/flows/rates.sh ROOT WEIGHTS: which learning rate and how large a batch do flows need in two epochs? The loss
# of held-out good photos of transistor; rates.csv. No defective photo is read.
set -euo pipefail
root=$1 weights=$2
export OMP_NUM_THREADS=1
here=$(dirname "$0")

trial() {  # METHOD RATE BATCH_SIZE
  folder=runs/rates/$1_$2_$3
  .venv/bin/python -m anomaly_lab trainer=cpu logger=none controls=false runs_dir="$folder" method="$1" \
    method.backbone.weights="$weights" data=folder data.root="$root/mvtec_ad_small/transistor/train" data.image_size=256 \
    data.batch_size="$3" budget.epochs=2 budget.schedule=cosine method.optimizer.lr="$2" > /dev/null
  losses=$(find "$folder" -name losses.csv)
  column=$(head -n 1 "$losses" | tr ',' '\n' | grep -nx validation/loss | cut -d : -f 1)
  echo "$1,$2,$3,$(tail -n 1 "$losses" | cut -d , -f "$column")" | tee -a "$here/rates.csv"
}

echo "method,rate,batch_size,held_out_loss" | tee "$here/rates.csv"
for rate in 2e-4 1e-3 3e-3 1e-2; do trial cflow $rate 16; done
for rate in 1e-3 3e-3 1e-2; do
  for size in 16 4; do trial fastflow $rate $size; done
done
