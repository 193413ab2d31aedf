#!/usr/bin/env bash
# experiments/initialisation/run.sh ROOT: how soon CAE learns screw at 128 px, by initialisation.
set -euo pipefail
echo "initialisation,validation_mse" > experiments/initialisation/results.csv
for initialisation in he default xavier; do
  .venv/bin/python -m anomaly_lab method=cae data.root="$1" data.category=screw data.image_size=128 \
    data.patches=6000 data.batch_size=16 trainer.max_epochs=1 budget.schedule=cosine method.optimizer.lr=1e-3 \
    method.network.initialisation=$initialisation logger=csv name=initialisation
  folder=$(ls -td runs/initialisation/cae/mvtec_ad/screw/seed=0/*/ | head -1)
  error=$(.venv/bin/python -c "import csv, sys; print([row['validation/loss'] for row in csv.DictReader(open(sys.argv[1])) if row['validation/loss']][-1])" "$folder/csv/metrics.csv")
  echo "$initialisation,$error" | tee -a experiments/initialisation/results.csv
done
