#!/usr/bin/env bash
# Tests and benchmarks that need a CUDA device, most valuable first, within some minutes; docs/gpu.md explains them.
#
#   tests/gpu/run.sh [FOLDER] --minutes M --max-files N --max-mb S
set -uo pipefail
. "$(dirname "$0")/setup.sh"
exec "$python" -m gpu.measure "$@"
