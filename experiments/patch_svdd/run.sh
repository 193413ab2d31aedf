#!/usr/bin/env bash
# experiments/patch_svdd/run.sh ROOT: Patch SVDD beside its untrained encoder, on wood, one thread; results.csv.
# ROOT holds wood_boards_256/. Finished rows are skipped.
set -euo pipefail
root=$1
export OMP_NUM_THREADS=1

row() {  # NAME OVERRIDES...
  .venv/bin/python -m anomaly_lab method=patch_svdd trainer=cpu logger=none callbacks.anomaly_maps=null \
    data=folder data.root="$root/wood_boards_256" data.category=wood data.kind=texture data.image_size=256 \
    method.max_vectors=20000 name="patch_svdd_$1" "${@:2}"
}

row untrained budget.epochs=1 method.optimizer.lr=1e-12
row trained budget.epochs=260 data.batch_size=8 method.pairs=1 method.optimizer.lr=1e-3  # 1820 steps of 8 pairs

.venv/bin/python experiments/table.py patch_svdd_ | tee experiments/patch_svdd/results.csv
