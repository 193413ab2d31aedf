#!/usr/bin/env bash
# experiments/features/run.sh ROOT WEIGHTS [PART]: memory banks and Gaussians of ResNet-18, 256 px, one thread; results.csv.
# ROOT holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and covid19_xray/; WEIGHTS is a ResNet-18 trained on
# ImageNet, up to layer3 at least. PART runs only the rows whose name contains it; finished rows are skipped.
set -euo pipefail
root=$1 weights=$2 part=${3:-}
export OMP_NUM_THREADS=1

screw="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=screw"
transistor="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=transistor"
wood="data=folder data.root=$root/wood_boards_256 data.category=wood_boards_256 data.kind=texture data.image_size=256"
cracks="data=folder data.root=$root/concrete_crack_700 data.category=concrete_crack_700 data.kind=texture data.image_size=256"
xray="data=folder data.root=$root/covid19_xray data.category=covid19_xray"

row() {  # NAME OVERRIDES...
  case "features_$1" in *"$part"*) ;; *) return ;; esac
  .venv/bin/python -m anomaly_lab trainer=cpu logger=none callbacks.anomaly_maps=null callbacks.curves=null \
    method.backbone.weights="$weights" name="features_$1" "${@:2}"
}

methods() {  # SEED METHODS...
  for method in "${@:2}"; do
    for data in "$screw" "$transistor" "$wood" "$cracks" "$xray"; do
      row base method=$method $data seed=$1
    done
  done
}
methods 0 padim patchcore mahalanobis spade

# The same networks before any training: what does ImageNet add?
untrained=runs/features_untrained.safetensors
mkdir -p runs
[ -e $untrained ] || .venv/bin/python - $untrained <<'PYTHON'
import sys, timm, torch
from safetensors.torch import save_file
torch.manual_seed(0)
save_file(timm.create_model("resnet18", features_only=True, pretrained=False, out_indices=(3,)).state_dict(), sys.argv[1])
PYTHON
for method in padim patchcore; do
  for data in "$screw" "$transistor" "$wood" "$cracks" "$xray"; do
    row untrained method=$method method.backbone.weights=$untrained $data
  done
done

for data in "$wood" "$transistor" "$screw"; do
  row plain method=patchcore method.neighbours=1 $data
  row ratio10 method=patchcore method.ratio=0.1 $data
  row crop method=patchcore data.region=0.0625,0.0625,0.875,0.875 $data data.image_size=224
  row crop method=padim data.region=0.0625,0.0625,0.875,0.875 $data data.image_size=224
  row layer2 method=patchcore 'method.backbone.layers=[layer2]' $data
  row layers123 method=patchcore 'method.backbone.layers=[layer1,layer2,layer3]' $data
done
methods 1 padim patchcore
methods 2 padim patchcore
for data in "$wood" "$transistor" "$screw"; do
  row ratio25 method=patchcore method.ratio=0.25 $data
done
row all method=patchcore data.held_out=0.015 $wood  # one image held out: how much do the others miss?

.venv/bin/python experiments/features/results.py > experiments/features/results.csv
cat experiments/features/results.csv
