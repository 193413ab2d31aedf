#!/usr/bin/env bash
# experiments/tables/run.sh: rows of numbers, scikit-learn's table of breast cancer; one thread, seconds a run; results.csv.
# Finished runs are skipped.
set -euo pipefail
export OMP_NUM_THREADS=1

table=runs/tables_data/cancer.csv  # 30 columns; 357 benign rows, 212 malignant ones
.venv/bin/python - $table <<'PYTHON'
import csv
import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

path, data = Path(sys.argv[1]), load_breast_cancer()
path.parent.mkdir(parents=True, exist_ok=True)
with path.open("w", newline="") as file:
    write = csv.writer(file)
    write.writerow([*data.feature_names, "label"])
    write.writerows([*row, "good" if benign else "malignant"] for row, benign in zip(data.data, data.target, strict=True))
PYTHON

row() {  # ROW SEED WORDS...: 286 benign rows to learn from, 29 of them held out; the draw is the same for all seeds
  .venv/bin/python -m anomaly_lab data=table data.root=$table data.category=cancer trainer=cpu logger=none \
    name="tables_$1" seed="$2" "${@:3}"
}

for kind in norm mahalanobis pca; do row control 0 method=table_control method.kind=$kind; done
for seed in 0 1 2; do
  row linear $seed method=table_autoencoder  # 900 steps
  row relu $seed method=table_autoencoder method.output=relu
  row untrained $seed method=table_autoencoder method.optimizer.lr=1e-12 budget.epochs=1
  row goad $seed experiment=goad_table data.train_share=0.8
  row goad_untrained $seed experiment=goad_table data.train_share=0.8 method.optimizer.lr=1e-12 budget.epochs=1
done

.venv/bin/python experiments/table.py tables_ | tee experiments/tables/results.csv
