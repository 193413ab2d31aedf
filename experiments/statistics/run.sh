#!/usr/bin/env bash
# experiments/statistics/run.sh ROOT WEIGHTS [PART]: methods without a gradient on real data, one thread; results.csv.
# ROOT holds mvtec_ad_small/, wood_boards_256/, concrete_crack_700/ and covid19_xray/; WEIGHTS is a ResNet-18 trained on
# ImageNet, up to layer3 at least. PART runs only the rows whose name contains it; finished rows are skipped.
set -euo pipefail
root=$1 weights=$2 part=${3:-}
export OMP_NUM_THREADS=1

screw="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=screw"
transistor="data=mvtec_ad data.root=$root/mvtec_ad_small data.category=transistor"
boards="data=folder data.root=$root/wood_boards_256 data.category=wood_boards_256 data.kind=texture"
concrete="data=folder data.root=$root/concrete_crack_700 data.category=concrete_crack_700 data.kind=texture"
wood="$boards data.image_size=256"
cracks="$concrete data.image_size=256"
xray="data=folder data.root=$root/covid19_xray data.category=covid19_xray"

row() {  # NAME OVERRIDES...
  case "statistics_$1" in *"$part"*) ;; *) return ;; esac
  .venv/bin/python -m anomaly_lab trainer=cpu logger=none callbacks.anomaly_maps=null name="statistics_$1" "${@:2}"
}

layer3="method.backbone.layers=[layer3] method.backbone.weights=$weights"
for seed in 0 1 2; do
  for data in "$screw" "$wood"; do
    row dictionary method=cnn_dictionary method.evaluation=dense $layer3 $data seed=$seed
  done
done
for data in "$transistor" "$cracks" "$xray"; do
  row dictionary method=cnn_dictionary method.evaluation=dense $layer3 $data
done
row centroid method=cnn_dictionary method.evaluation=dense method.entries=centroid $layer3 $screw
row centroid method=cnn_dictionary method.evaluation=dense method.entries=centroid $layer3 $wood
for data in "$screw" "$transistor" "$wood" "$cracks" "$xray"; do
  row large experiment=cnn_dictionary_large $layer3 $data
done
row patchwise method=cnn_dictionary $layer3 $wood

# The same network before any training: what does ImageNet add?
untrained=runs/statistics_untrained.safetensors
mkdir -p runs
[ -e $untrained ] || .venv/bin/python - $untrained <<'PYTHON'
import sys, timm, torch
from safetensors.torch import save_file
torch.manual_seed(0)
save_file(timm.create_model("resnet18", features_only=True, pretrained=False, out_indices=(3,)).state_dict(), sys.argv[1])
PYTHON
for data in "$screw" "$transistor" "$wood" "$cracks" "$xray"; do
  row untrained method=cnn_dictionary method.evaluation=dense method.backbone.layers=[layer3] method.backbone.weights=$untrained $data
done

row variation method=variation_model method.alignment=rigid method.region=foreground $screw
row variation method=variation_model method.alignment=translation $transistor
for data in "$wood" "$cracks" "$xray"; do  # textures and chests have no pose to align
  row variation method=variation_model $data
done

for seed in 0 1 2; do
  row texture method=texture_inspection $boards seed=$seed
done
row texture method=texture_inspection $concrete

.venv/bin/python experiments/table.py statistics_ > experiments/statistics/results.csv
cat experiments/statistics/results.csv
