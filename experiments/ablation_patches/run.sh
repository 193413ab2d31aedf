#!/usr/bin/env bash
# experiments/ablation_patches/run.sh [OVERRIDES...]: 1 000, 10 000 and 100 000 different patches in as many steps.
# EPOCHS_OF_100K=20 is the budget of the MVTec AD paper, 2 million patches; 2 is a tenth of it. Say dry_run=true first.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
epochs=${EPOCHS_OF_100K:-2}

failed=0
sweep() {  # PATCHES EPOCHS OVERRIDES...
  "$python" -m anomaly_lab -m name=ablation_patches method=cae,ssim_ae data.category=textures seed=0,1,2 \
    data.patches="$1" budget.epochs="$2" callbacks.anomaly_maps=null "${@:3}" || failed=1
}
sweep 1000 $((100 * epochs)) data.redraw=false "$@"
sweep 10000 $((10 * epochs)) data.redraw=false "$@"
sweep 100000 "$epochs" data.redraw=false "$@"
sweep 100000 "$epochs" data.redraw=true "$@"  # and where no patch ever comes again
exit $failed
