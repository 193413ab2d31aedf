#!/usr/bin/env bash
# experiments/reconstruction/run.sh ROOT WEIGHTS [PART]: methods that reconstruct, on five sets, minutes of one CPU thread each;
# results.csv, and reconstructions.jpg of the demo data. ROOT holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and
# covid19_xray/; WEIGHTS is a ResNet-18 trained on ImageNet, up to layer3 at least. PART runs only the rows whose text
# (ROW METHOD DATA SEED) contains it; finished rows are skipped.
set -euo pipefail
root=$1 weights=$2 part=${3:-}
export OMP_NUM_THREADS=1
. "$(dirname "$0")/../sets.sh"

declare -A words=(  # image sides, and rates at which so short a training gets anywhere; fixed before any result was seen
  [cae]="data.image_size=128"
  [vae]="data.image_size=128"
  [memae]="data.image_size=128 method.optimizer.lr=1e-3"
  [cavga]="data.image_size=64 method.backbone.layers=[stride16] method.backbone.weights=$weights"
  [lsa]="data.image_size=64"
  [egbad]="data.image_size=64"
  [adae]="data.image_size=64"
  [avid]="data.image_size=64"
)
# At the usual 1e-3 its loss is infinite after 329 steps (355 in bf16-mixed). Row `clipped` keeps the rate.
declare -A gentler=([vae wood]="budget.learning_rate=5e-4")
data[demo]="data=demo data.category=washer"

row() {  # ROW METHOD DATA SEED WORDS...: 16 000 whole images in batches of 8
  case "$1 $2 $3 $4" in *"$part"*) ;; *) return 0 ;; esac
  .venv/bin/python -m anomaly_lab experiment=quick trainer=cpu logger=none callbacks.anomaly_maps=null \
    name="reconstruction_$1" method="$2" ${data[$3]} data.kind=object ${words[$2]} ${gentler[$2 $3]:-} seed="$4" "${@:5}"
}

untrained() {  # METHOD DATA: a rate at which nothing is learnt
  case $1 in cae | vae) rate=budget.learning_rate=1e-12 ;; *) rate=method.optimizer.lr=1e-12 ;; esac
  row untrained "$1" "$2" 0 data.patches=64 budget.epochs=1 $rate
}

for seed in 0 1 2; do
  for set in transistor wood screw cracks xray; do
    for method in vae memae lsa egbad adae avid cavga cae; do
      row base $method $set $seed
    done
    row residual cavga $set $seed method.map=residual
  done
done
for set in transistor wood screw cracks xray; do
  for method in vae memae lsa egbad adae avid cavga cae; do
    untrained $method $set
  done
done
for set in transistor wood screw; do
  row projection vae $set 0 method.map=projection  # experiment=gamma_vae_grad
  row attention vae $set 0 method.map=attention    # experiment=advae
  row daad memae $set 0 method.block=4 method.skips=2
  row labelled cavga $set 0 data.labelled_abnormal=0.1
done
row clipped vae wood 0 budget.learning_rate=1e-3 trainer.gradient_clip_val=1

labelled=runs/reconstruction_data/xray  # links to the extra X-rays without copies of tested ones, which a run would refuse
.venv/bin/python - "$root/covid19_xray" $labelled <<'PYTHON'
import hashlib, shutil, sys
from pathlib import Path
root, links = (Path(word).resolve() for word in sys.argv[1:])
files = {part: [file for file in sorted((root / part).rglob("*")) if file.is_file()] for part in ("extra_train_abnormal", "test")}
content = {file: hashlib.sha256(file.read_bytes()).digest() for some in files.values() for file in some}
seen = {content[file] for file in files["test"]}
shutil.rmtree(links, ignore_errors=True)
for file in files["extra_train_abnormal"]:
    if content[file] not in seen:
        seen.add(content[file])
        link = links / file.relative_to(root / "extra_train_abnormal")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
PYTHON
row labelled cavga xray 0 data.labelled_abnormal=$labelled

# One defect of the demo data, as every method sees it without.
for method in cae vae memae lsa egbad adae avid cavga; do
  published=(); [ $method = cavga ] && published=(method.adversarial_weight=1)  # and the same map for every photo
  row demo $method demo 0 data.patches=1000 "${published[@]}"
done
if [ -d runs/reconstruction_demo ]; then
  .venv/bin/python experiments/reconstruction/picture.py runs/reconstruction_demo experiments/reconstruction/reconstructions.jpg
fi

.venv/bin/python experiments/table.py reconstruction_ > experiments/reconstruction/results.csv
cat experiments/reconstruction/results.csv
