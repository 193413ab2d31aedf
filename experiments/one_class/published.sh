#!/usr/bin/env bash
# experiments/one_class/published.sh ROOT [OVERRIDES...]: the published trainings on one class of ten, for a GPU: minutes (MNIST) to
# hours (CIFAR-10) a class. Say dry_run=true first. ROOT holds one_class/{mnist,cifar10}, as large as you have them; finished runs
# are skipped. The report has the published figures beside these.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
root=$1
failed=0

sweep() {  # SET EXPERIMENTS WORDS...
  "$python" -m anomaly_lab -m name=one_class_published data=one_class data.root="$root/one_class/$1" data.category=all \
    experiment="$2" controls=false callbacks.anomaly_maps=null "${@:3}" || failed=1
}

sweep mnist deep_svdd_paper,lsa_paper data.resize=pad "${@:2}"
sweep cifar10 deep_svdd_paper data.image_size=32 input.channels=3 budget.epochs=500 method.pretraining_epochs=350 \
  method.pretraining_optimizer.weight_decay=5e-7 "${@:2}"
sweep cifar10 memae_paper,geom,ssl_ad,goad,csi,ssl_occ,ssd "${@:2}"
exit $failed
