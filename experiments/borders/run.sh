#!/usr/bin/env bash
# experiments/borders/run.sh ROOT WEIGHTS [PART]: where is the maximum of the map of a good part? One thread; results.csv.
# ROOT holds mvtec_ad_small/ and wood_boards_256/; WEIGHTS is a ResNet-18 trained on ImageNet, up to layer3 at least.
# PART runs only the rows whose name contains it; finished rows are skipped.
set -euo pipefail
root=$1 weights=$2 part=${3:-}
export OMP_NUM_THREADS=1

transistor="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=transistor"
wood="data=folder data.root=$root/wood_boards_256 data.category=wood data.kind=texture data.image_size=256"
layer3="method=cnn_dictionary method.backbone.layers=[layer3] method.backbone.weights=$weights"

row() {  # NAME OVERRIDES...
  case "borders_$1" in *"$part"*) ;; *) return ;; esac
  .venv/bin/python -m anomaly_lab trainer=cpu logger=none controls=false callbacks.gallery=null callbacks.pictures=null \
    name="borders_$1" "${@:2}"
}

# The dense pass against the published one, patch by patch. Without overlap (stride 16) both take minutes.
for evaluation in dense patchwise; do
  row "stride16_$evaluation" $layer3 method.evaluation=$evaluation method.stride=16 $transistor
done
for data in "$transistor" "$wood"; do
  row stride4_dense $layer3 method.evaluation=dense $data
done
for method in padim patchcore spade; do
  for data in "$transistor" "$wood"; do
    row features method=$method method.backbone.weights=$weights $data
  done
done
for method in fastflow cflow cs_flow; do
  row flows method=$method budget.epochs=3 data.batch_size=16 method.backbone.weights=$weights $transistor
done
row flows method=pixel_flow budget.epochs=20 $transistor
for method in stfpm reverse_distillation mkd; do
  row students method=$method budget.epochs=5 budget.schedule=cosine data.batch_size=8 method.backbone.weights=$weights $transistor
done
small="data.image_size=64 data.batch_size=16 method.optimizer.lr=1e-3 budget.epochs=25"
row painted method=draem $small method.width=16 method.segmentation_width=8 $transistor
row painted method=nsa $small method.labels=binary $transistor
row painted experiment=cutpaste_patches data.image_size=128 data.patch_size=32 data.stride=8 data.patches=5000 \
  budget.epochs=1 $transistor
row painted method=fcdd data.image_size=128 data.batch_size=16 budget.epochs=1 method.backbone.weights=$weights $transistor
row patches method=patch_svdd data.image_size=128 method.pairs=1 budget.epochs=20 method.optimizer.lr=3e-4 $transistor
attention="method=cavga data.image_size=64 data.patches=2000 budget.epochs=10 method.backbone.layers=[stride16] \
  method.backbone.weights=$weights"
row attention $attention method.adversarial_weight=1 $transistor  # as published
row light $attention $transistor                                  # the default
row alone $attention method.adversarial_weight=0 $transistor
row untrained $attention data.patches=64 budget.epochs=1 method.optimizer.lr=1e-12 $transistor

taught() {  # METHOD NETWORK KEY LAYERS: with a small teacher, distilled on the good photos themselves
  case borders_taught in *"$part"*) ;; *) return 0 ;; esac
  teacher=runs/borders_$2.safetensors
  .venv/bin/python -m anomaly_lab teacher network="$2" images="$root/mvtec_ad_small/transistor/train" out="$teacher" width=0.25 \
    steps=300 batch_size=4 backbone.weights="$weights" backbone.layers="$4"
  row taught method="$1" method.$3.weights="$teacher" method.$3.width=0.25 data.image_size=256 data.batch_size=2 \
    budget.epochs=2 $transistor
}
taught efficient_ad pdn_small teacher "[layer2,layer3]"
taught uninformed_students patch33 patch33 "[layer3]"

case borders_drawn in *"$part"*)  # a transformer whose weights were drawn, not trained: those of DINOv2 are not at hand
  drawn=runs/borders_drawn.safetensors
  [ -e $drawn ] || .venv/bin/python - $drawn <<'PYTHON'
import sys, timm, torch
from safetensors.torch import save_file
torch.manual_seed(0)
save_file(timm.create_model("vit_small_patch14_dinov2", pretrained=False).state_dict(), sys.argv[1])
PYTHON
  row drawn method=anomaly_dino method.backbone.weights=$drawn data.image_size=224 $transistor ;;
esac
row translation method=variation_model method.alignment=translation $transistor
row texture method=texture_inspection $wood
for method in cae ssim_ae vae memae; do
  row quick method=$method experiment=quick data.image_size=128 $transistor
done
for method in ganomaly skip_ganomaly adae avid egbad lsa f_anogan anogan; do  # 500 steps: a border needs no more to show
  row quick method=$method experiment=quick data.patches=1000 data.image_size=64 $transistor
done
row copies method=htdg data.patches=250 $transistor  # 50 steps of each scale
row slides method=slides_cae experiment=quick data.patches=1000 $transistor

# Turned by a quarter, what a map owes to the photos turns too.
turned="data=folder data.root=runs/borders_data/turned data.category=turned data.kind=texture data.image_size=256"
case borders_turned in *"$part"*) .venv/bin/python experiments/borders/turned.py "$root/wood_boards_256" runs/borders_data/turned ;; esac
row turned method=texture_inspection $turned
for method in padim spade; do
  row turned method=$method method.backbone.weights="$weights" $turned
done

.venv/bin/python experiments/borders/borders.py runs/borders_*/ | tee experiments/borders/results.csv
