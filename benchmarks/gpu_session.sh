#!/usr/bin/env bash
# One session on a borrowed CUDA machine: does focalnets work there, is it right, how fast is it.
#
#   benchmarks/gpu_session.sh OUT_DIRECTORY [--rehearse]
#
# Needs torch, jax, triton and timm, and keras, optree and namex, installed or as wheels in the folder .whl:
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
#     -d .whl keras==3.15.1 optree namex
#
# The limits of the parts sum to nine minutes. A part writes its rows group by group, so one that fails or runs
# out of its seconds leaves what it found; it is reported and does not stop the others.
# --rehearse runs everything with tiny sizes, for a machine without a GPU.
#
# The recipe cifar10_gpu, in a command of its own, without the command line's packages. Stopped at its limit,
# it is saved: as long as the machine is held, focalnets.resume("/tmp/run") goes on.
#
#   python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site .whl/*.whl
#   PYTHONPATH=$PWD:/tmp/site KERAS_BACKEND=torch python3 -c 'import focalnets
#   focalnets.train("cifar10_gpu", "cifar10.zip", "/tmp/run", max_minutes=8, monitor_every=0, verbose=2)'
#   tar -czf OUT_DIRECTORY/run.tgz --exclude="*.npz" -C /tmp run
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: gpu_session.sh OUT_DIRECTORY [--rehearse]}
rehearse=${2:-}
mkdir -p "$out"

if compgen -G ".whl/*.whl" > /dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site .whl/*.whl || exit 1
fi
export PYTHONPATH="$PWD:$PWD/tests:$PWD/tests/models:/tmp/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false

part() { # part SECONDS BACKEND NAME
  echo "== $3 on $2"
  local deadline=$(($(date +%s) + $1))
  KERAS_BACKEND=$2 timeout -k 5 "$1" python3 benchmarks/gpu_session.py "$3" "$out" $deadline $rehearse && return
  echo "!! $3 on $2 failed or ran out of its $1 s (exit $?)"
  return 1
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2> /dev/null
part 50 torch ceilings
part 40 torch correctness
part 20 torch train_step
part 60 torch kernels && kernels=right
part 60 torch depthwise
part 100 torch speed
if [ "${kernels:-}" = right ]; then # a kernel that is wrong may take its process with it
  part 40 torch kernel_speed
fi
part 45 jax correctness
part 20 jax train_step
part 30 jax depthwise
part 60 jax speed
