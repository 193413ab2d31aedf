#!/usr/bin/env bash
# experiments/demo/run.sh: what `make run` does, on both categories and over two seeds; also the picture of the README.
set -euo pipefail
for category in washer weave; do
  for seed in 0 1; do
    .venv/bin/python -m anomaly_lab experiment=demo data.category=$category seed=$seed logger=none
  done
done
for category in washer weave; do
  cp runs/demo/cae/demo/$category/seed=0/*/controls.csv experiments/demo/controls_$category.csv
done
.venv/bin/python experiments/collect.py runs/demo | tee experiments/demo/results.csv
.venv/bin/python -c "import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[2], quality=90)" \
  runs/demo/cae/demo/washer/seed=0/*/pictures/overview.png experiments/demo/overview.jpg
# Five methods on the same defects.
for words in "method=cae" "method=variation_model" "method=padim method.backbone=offline" \
  "method=patchcore method.backbone=offline" "method=reverse_distillation method.backbone=offline budget.epochs=10"; do
  .venv/bin/python -m anomaly_lab experiment=demo data.category=washer logger=none name=demo_five $words
done
.venv/bin/python -m anomaly_lab compare runs/demo_five figure=photos photos=3 out=runs/demo_five/photos.png \
  names=cae,variation_model,padim,patchcore,reverse_distillation:'reverse distillation'
.venv/bin/python -c "import sys; from PIL import Image; Image.open(sys.argv[1]).convert('RGB').save(sys.argv[2], quality=85)" \
  runs/demo_five/photos.png experiments/demo/five.jpg
