#!/usr/bin/env bash
# experiments/search/run.sh [OVERRIDES...]: learning rate, batch and SSIM window for ssim_ae in 30 trials.
set -euo pipefail
"${PYTHON:-.venv/bin/python}" -m anomaly_lab -m hydra/sweeper=optuna hydra.sweeper.n_trials=30 name=search_ssim_ae \
  experiment=quick method=ssim_ae data.category=screw callbacks.anomaly_maps=null \
  'budget.learning_rate=tag(log,interval(1e-4,1e-2))' data.batch_size=8,16,32 method.window=gaussian,uniform "$@"
