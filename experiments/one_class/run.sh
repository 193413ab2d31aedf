#!/usr/bin/env bash
# experiments/one_class/run.sh ROOT WEIGHTS [PART]: is it another kind of object? Ten classes of MNIST and of CIFAR-10, one against
# the others; results.csv and means.csv. ROOT holds one_class/{mnist,cifar10} and mvtec_ad_small/; WEIGHTS is a ResNet-18 trained
# on ImageNet, up to layer3 at least. PART runs only the rows whose text (ROW SET SEED) contains it; finished runs are skipped.
set -euo pipefail
root=$1 weights=$2 part=${3:-}
export OMP_NUM_THREADS=1

declare -A set=(
  [mnist]="data=one_class data.root=$root/one_class/mnist data.image_size=28 data.resize=pad input.channels=1"
  [cifar10]="data=one_class data.root=$root/one_class/cifar10 data.image_size=32 data.resize=pad"
)
lab=(.venv/bin/python -m anomaly_lab trainer=cpu logger=none controls=false callbacks.anomaly_maps=null callbacks.curves=null
  callbacks.pictures=null callbacks.gallery=null)

row() {  # ROW SET SEED WORDS...: ten classes
  case "$1 $2 $3" in *"$part"*) ;; *) return 0 ;; esac
  "${lab[@]}" -m data.category=all name="one_class_$1" ${set[$2]} seed="$3" "${@:4}"
}

# Rates and epochs for 540 and 450 training images, minutes of one thread; fixed before the ten classes were run.
svdd="method=deep_svdd data.batch_size=60 budget.schedule=early_drop"
trained="budget.epochs=100 method.pretraining_epochs=40 method.optimizer.lr=1e-3 method.pretraining_optimizer.lr=1e-3"
at_rest="budget.epochs=2 method.pretraining_epochs=1 method.optimizer.lr=1e-12 method.pretraining_optimizer.lr=1e-12"
for seed in 0 1 2; do
  for name in mnist cifar10; do
    if [ $seed = 0 ]; then  # controls draw nothing
      for kind in pca_distance mean_distance nearest kde brightness; do row $kind $name 0 method=control method.kind=$kind; done
    fi
    row untrained $name $seed $svdd $at_rest
    row base $name $seed $svdd $trained
    row turns $name $seed method=transformation_classifier
    row turns_untrained $name $seed method=transformation_classifier budget.epochs=1 method.optimizer.lr=1e-12
    row vae $name $seed method=vae data.batch_size=32 budget.epochs=30 budget.learning_rate=1e-3 method.network.latent_size=32
  done
done
for score in probability log_probability; do row turns_$score cifar10 0 method=transformation_classifier method.score=$score; done
row views cifar10 0 method=contrastive

# What does the loss on painted defects say about real ones? The same training, ended sooner and later.
fcdd() {  # EPOCHS RATE
  case "painted transistor $1" in *"$part"*) ;; *) return 0 ;; esac
  "${lab[@]}" name="one_class_painted$1" data=mvtec_ad data.root="$root/mvtec_ad_small" data.category=transistor method=fcdd \
    data.image_size=128 data.patches=160 data.batch_size=16 budget.epochs="$1" budget.schedule=constant \
    method.optimizer.lr="$2" method.backbone.weights="$weights"
}
fcdd 1 1e-12
for epochs in 2 4 8 16 32; do fcdd $epochs 1e-2; done

if [ -d runs/one_class_painted32 ]; then
  .venv/bin/python experiments/one_class/painted.py runs/one_class_painted* experiments/one_class/painted.csv \
    experiments/one_class/painted.jpg
fi
.venv/bin/python experiments/table.py one_class_ > experiments/one_class/results.csv
.venv/bin/python experiments/one_class/means.py experiments/one_class/results.csv | tee experiments/one_class/means.csv
