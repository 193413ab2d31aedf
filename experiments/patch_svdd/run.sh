#!/usr/bin/env bash
# experiments/patch_svdd/run.sh ROOT [PART]: Patch SVDD beside its untrained encoder, on wood and transistor, one thread;
# results.csv. ROOT holds wood_boards_256/ and mvtec_ad_small/. PART runs only the rows whose text (ROW DATA) contains it;
# finished rows are skipped.
set -euo pipefail
root=$1 part=${2:-}
export OMP_NUM_THREADS=1
. "$(dirname "$0")/../sets.sh"

row() {  # ROW DATA WORDS...: steps of 16 pairs
  case "$1 $2" in *"$part"*) ;; *) return 0 ;; esac
  .venv/bin/python -m anomaly_lab method=patch_svdd trainer=cpu logger=none callbacks.anomaly_maps=null \
    ${data[$2]} data.image_size=256 data.batch_size=16 method.pairs=1 method.max_vectors=20000 name="patch_svdd_$1" "${@:3}"
}

for set in wood transistor; do row untrained $set budget.epochs=1 method.optimizer.lr=1e-12; done
# At 1e-3 all codes become one (rates.py).
row trained wood budget.epochs=500 method.optimizer.lr=3e-4
row trained transistor budget.epochs=125 method.optimizer.lr=3e-4

.venv/bin/python experiments/table.py patch_svdd_ | tee experiments/patch_svdd/results.csv
