#!/usr/bin/env bash
# A suite's board in limited time on a device, packed so that another machine can publish it; docs/gpu.md explains it.
#
#   tests/gpu/board.sh SUITE --minutes M [--methods A,B] [--lot N] [--jobs J] [--max-files N] [--max-mb S]
set -uo pipefail
. "$(dirname "$0")/setup.sh"
exec "$python" -m gpu.board "$@"
