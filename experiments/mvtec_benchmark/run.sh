#!/usr/bin/env bash
# experiments/mvtec_benchmark/run.sh [OVERRIDES...]: every method on every category that is there, three seeds.
# Say dry_run=true first: it lists the jobs and what they will cost. Pretrained networks need the weights of a ResNet-18,
# WEIGHTS=PATH, and of DINOv2 ViT-S/14, DINO_WEIGHTS=PATH; else timm fetches them. EfficientAD and the Uninformed Students
# run where their teachers are, TEACHERS=FOLDER with pdn_small.safetensors, patch17, patch33 and patch65 (of `teacher`),
# EfficientAD with the photos of FOREIGN=FOLDER.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
weights=()
[ -z "${WEIGHTS:-}" ] || weights=(method.backbone.weights="$WEIGHTS")
dino=()
[ -z "${DINO_WEIGHTS:-}" ] || dino=(method.backbone.weights="$DINO_WEIGHTS")

sweep() {
  "$python" -m anomaly_lab -m name=mvtec_benchmark data.category=all seed=0,1,2 callbacks.anomaly_maps=null "$@" ||
    failed=1
}

failed=0
sweep method=variation_model,texture_inspection "$@"
sweep method=padim,patchcore,mahalanobis,spade "${weights[@]}" "$@"
sweep method=stfpm,reverse_distillation,mkd,fastflow,cflow,differnet,cs_flow,cavga,fcdd "${weights[@]}" "$@"
if [ -n "${TEACHERS:-}" ]; then
  sweep method=efficient_ad method.teacher.weights="$TEACHERS/pdn_small.safetensors" \
    method.foreign_images="${FOREIGN:-procedural}" "$@"
  sweep experiment=uninformed_students_paper method.patch17.weights="$TEACHERS/patch17.safetensors" \
    method.patch33.weights="$TEACHERS/patch33.safetensors" method.patch65.weights="$TEACHERS/patch65.safetensors" "$@"
fi
sweep method=anomaly_dino "${dino[@]}" "$@"
sweep method=cnn_dictionary method.evaluation=dense "${weights[@]}" "$@"
sweep method=draem,cutpaste,nsa,patch_svdd,transformation_classifier,contrastive,htdg "$@"
sweep method=pixel_flow,cae,ssim_ae,vae,slides_cae,memae,lsa,deep_svdd,ganomaly,skip_ganomaly,adae,avid,f_anogan,egbad,anogan "$@"
exit $failed
