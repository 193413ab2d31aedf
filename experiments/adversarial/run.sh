#!/usr/bin/env bash
# experiments/adversarial/run.sh ROOT METHOD SEEDS [SETS [ROWS]]: an adversarial method and the same network untrained,
# 64 px, one thread, minutes a row. ROOT holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and covid19_xray/;
# SEEDS is a list in quotes, SETS a list in quotes of screw, transistor, wood, cracks and xray, ROWS one of "trained" and
# "untrained", or both.
# SCHEDULE=constant leaves the learning rate as it is, as the AnoGANs do anyway. GANomaly keeps the weights of every epoch
# for steadiness.py.
# LONG=3 shows three times as many patches; those rows are called _long and have no untrained ones. SIDE=128 shows photos
# of textures at 128 px, with the same windows; those rows are called _side128.
set -euo pipefail
root=$1 method=$2 seeds=$3 sets=${4:-screw transistor wood cracks xray} rows=${5:-trained untrained}
usual=cosine
case $method in anogan | f_anogan) usual=constant ;; esac
schedule=${SCHEDULE:-$usual}
name=$([ "$schedule" = "$usual" ] || echo "_$schedule")${LONG:+_long}${SIDE:+_side$SIDE}
export OMP_NUM_THREADS=1

# What a row may cost decides: the search of AnoGAN takes 100 passes an image, a step of f-AnoGAN 20 times one of GANomaly.
checkpoints="pytorch_lightning.callbacks.ModelCheckpoint, save_top_k: -1, save_weights_only: true"
extra=()
case $method in
  ganomaly)
    side=256 stride=32
    settings="data.batch_size=32 data.patches=$((1000 * ${LONG:-1})) budget.epochs=8"
    untrained="method.optimizer.lr=1e-12" looks=1
    extra=("+callbacks.every_epoch={_target_: $checkpoints}")
    ;;
  skip_ganomaly)
    side=256 stride=32
    settings="data.batch_size=32 data.patches=$((2000 * ${LONG:-1})) budget.epochs=4"
    untrained="method.optimizer.lr=1e-12" looks=1
    ;;
  anogan)
    side=128 stride=64
    settings="data.batch_size=32 data.patches=$((2000 * ${LONG:-1})) budget.epochs=8
      method.generator.width=32 method.discriminator.width=32 method.search_steps=100"
    untrained="method.optimizer.lr=1e-12" looks=1
    ;;
  f_anogan)
    side=64 stride=32 patch=32
    settings="data.batch_size=16 data.patches=$((8000 * ${LONG:-1})) budget.epochs=16 method.optimizer.lr=5e-4
      method.encoder_optimizer.lr=5e-4 method.generator.width=16 method.critic.width=16 method.encoder.width=16"
    untrained="method.optimizer.lr=1e-12 method.encoder_optimizer.lr=1e-12" looks=2
    ;;
esac

object="data.image_size=64"
texture="data.kind=texture data.image_size=${SIDE:-$side} data.patch_size=${patch:-64} data.stride=$stride"
declare -A data=(
  [screw]="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=screw $object"
  [transistor]="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=transistor $object"
  [wood]="data=folder data.root=$root/wood_boards_256 $texture"
  [cracks]="data=folder data.root=$root/concrete_crack_700 $texture"
  [xray]="data=folder data.root=$root/covid19_xray $object"
)

for seed in $seeds; do
  for set in $sets; do
    lab=(.venv/bin/python -m anomaly_lab method="$method" ${data[$set]} seed="$seed" $settings
      trainer=cpu logger=none callbacks.anomaly_maps=null)
    [[ " $rows " != *" trained "* ]] ||
      "${lab[@]}" name="adversarial$name" budget.schedule="$schedule" "${extra[@]}"
    [[ -z "$name" && " $rows " == *" untrained "* ]] || continue
    # a rate that changes no weight, and long enough for batch norm to know the data
    "${lab[@]}" name=adversarial_untrained data.patches=1600 budget.epochs="$looks" $untrained
  done
done
