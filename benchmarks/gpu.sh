#!/usr/bin/env bash
# Everything that wants a GPU, in one go: tests, training speed, memory of head and loss, linear kernels,
# distillation from a model of Qwen3-8B's size within 20 GB, the quickstart.
# Uses the torch that is installed. Without an index, put wheels into wheels/ first: `make wheels`.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-results/gpu}
mkdir -p "$OUT"
python3 -m venv --system-site-packages .venv-gpu
install=(.venv-gpu/bin/python -m pip install --quiet)
[ -d wheels ] && install+=(--no-index --find-links wheels)
"${install[@]}" pydantic PyYAML typer rich matplotlib jinja2 filelock psutil tokenizers safetensors pytest hypothesis allpairspy
"${install[@]}" --no-deps --no-build-isolation -e .
.venv-gpu/bin/python -c 'import torch; assert torch.cuda.is_available(), "no GPU here"; print(torch.cuda.get_device_name(0))'
.venv-gpu/bin/python -m pytest -m "gpu or not slow" -x tests/gpu tests/unit/training tests/unit/model 2>&1 | tee "$OUT/tests.txt"
export RESULTS="$OUT"
.venv-gpu/bin/python benchmarks/bench_objectives.py
.venv-gpu/bin/python benchmarks/bench_training.py --steps 60
.venv-gpu/bin/python benchmarks/bench_linear_quant.py
.venv-gpu/bin/python benchmarks/bench_distilqwen3_memory.py --width 1 --device cuda --memory 20GB
.venv-gpu/bin/python -m flyweight quickstart --runs "$OUT/runs" | tee "$OUT/quickstart.txt"
cp "$OUT"/runs/quickstart/{report.html,summary.json,table.csv} "$OUT/"
rm -rf "$OUT/runs"
