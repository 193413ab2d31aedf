#!/usr/bin/env bash
# experiments/slides/run.sh ROOT [OVERRIDES...]: the grids of a set of slides on their three data sets, as far as these are
# in ROOT: concrete_crack_700/, covid19_xray/, manufacturing/ (in the layout of data=folder). METHODS="ganomaly anogan"
# picks. Say dry_run=true first.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
root=$1
methods=${METHODS:-ganomaly skip_ganomaly f_anogan anogan}
grid=(data.image_size=64,128 input.channels=1,3 data.batch_size=16,32,64 method.optimizer.lr=1e-3,5e-4)

declare -A images=([concrete_crack_700]=250 [covid19_xray]=70 [manufacturing]=2872)  # training images: an epoch
failed=0
for set in concrete_crack_700 covid19_xray manufacturing; do
  if [ ! -d "$root/$set" ]; then
    echo "$root/$set: not there, left out"
    continue
  fi
  for method in $methods; do
    more=()
    # shellcheck disable=SC2016
    [ "$method" != f_anogan ] || more=('method.encoder_optimizer.lr=${method.optimizer.lr}')
    "$python" -m anomaly_lab -m name=slides method="$method" data=folder data.root="$root/$set" \
      data.patches="${images[$set]}" budget.epochs=100 budget.schedule=constant callbacks.anomaly_maps=null \
      "${grid[@]}" "${more[@]}" "${@:2}" ||
      failed=1
  done
done
exit $failed
