#!/usr/bin/env bash
# One session on a CUDA machine: checks results and measures speed.
#
#   benchmarks/gpu_session.sh OUT_DIRECTORY [--rehearse]
#
# Needs torch, jax, triton and timm, and the packages below, which can be wheels in the folder .whl:
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
#     -d .whl -c constraints.txt keras optree namex msgspec filelock platformdirs pillow
#
# The time limits of the parts sum to nine minutes. A part writes its rows group by group. If it fails or reaches
# its limit, the earlier rows remain, the failure is printed, and the other parts continue.
# --rehearse uses tiny sizes, for a machine without a GPU.
#
# The following commands train the recipe cifar10_gpu without the packages of the command line. At its time limit,
# the run writes a snapshot. focalnets.resume("/tmp/run") continues it on the same machine.
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
  echo "!! $3 on $2 failed or reached its limit of $1 s (exit $?)"
  return 1
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2> /dev/null
part 150 torch ceilings,correctness,train_step,speed
part 75 torch kernels && kernels=right
if [ "${kernels:-}" = right ]; then # a wrong kernel can crash its process
  part 60 torch kernel_speed
fi
part 150 jax correctness,train_step,speed
part 60 torch depthwise
part 40 jax depthwise
