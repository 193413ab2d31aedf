#!/usr/bin/env bash
# experiments/why_flows_fail/run.sh ROOT WEIGHTS: a flow on pixels and one on features are trained on good
# transistors and asked about everything else; one thread; results.csv, groups.jpg. ROOT holds mvtec_ad_small/,
# wood_boards_256/, concrete_crack_700/ and covid19_xray/; WEIGHTS is a ResNet-18 trained on ImageNet, up to layer3 at
# least. Finished trainings are skipped.
set -euo pipefail
root=$1 weights=$2
export OMP_NUM_THREADS=1

train() {
  .venv/bin/python -m anomaly_lab trainer=cpu logger=none controls=false callbacks.gallery=null callbacks.pictures=null \
    callbacks.anomaly_maps=null callbacks.curves=null callbacks.samples=null name=why_flows_fail \
    data=mvtec_ad data.root="$root/mvtec_ad_small" data.category=transistor data.batch_size=8 "$@"
}

train method=pixel_flow budget.epochs=40
train method=fastflow method.backbone.weights="$weights" budget.epochs=2

.venv/bin/python experiments/why_flows_fail/groups.py "$root" runs/why_flows_fail experiments/why_flows_fail
