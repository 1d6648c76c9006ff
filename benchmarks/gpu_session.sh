#!/usr/bin/env bash
# One session on a borrowed CUDA machine: does focalnets work there, is it right, how fast is it.
#
#   benchmarks/gpu_session.sh OUT_DIRECTORY [--rehearse]
#
# Needs Python 3.12 with torch, jax, triton, timm and transformers, and keras, optree and namex as wheels
# in the folder .whl (`pip download --no-deps keras==3.15.1 optree namex`), or installed. The limits of the
# parts sum to less than nine minutes; one that fails is reported and does not stop the others.
# --rehearse runs everything with tiny sizes, for a machine without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: gpu_session.sh OUT_DIRECTORY [--rehearse]}
rehearse=${2:-}
mkdir -p "$out"

if compgen -G ".whl/*.whl" > /dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site .whl/*.whl || exit 1
fi
export PYTHONPATH="$PWD:$PWD/tests:/tmp/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false

part() { # part SECONDS BACKEND NAME
  echo "== $3 on $2"
  KERAS_BACKEND=$2 timeout "$1" python3 benchmarks/gpu_session.py "$3" "$out" $rehearse \
    || echo "!! $3 on $2 failed or ran out of its $1 s (exit $?)"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2> /dev/null | tee "$out/machine.csv"
part 20 torch ceilings
for backend in torch jax; do
  part 40 "$backend" correctness
  part 25 "$backend" train_step
done
part 45 torch kernels
part 100 torch depthwise
part 35 jax depthwise
part 130 torch speed
part 60 jax speed
