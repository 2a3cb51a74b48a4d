# Sourced by the scripts of this folder: sets `python`, and the paths that Python imports from.
#
# Wheels of packages that the machine lacks: those in $FAIRBENCH_WHEELS go to gpu-out/packages, without a network.
# A checkout that is not installed is imported by links; the machine's environment stays as it is.
export FAIRBENCH_GPU_START=${EPOCHREALTIME/,/.}
python=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 2
export PYTHONPATH="$here/tests${PYTHONPATH:+:$PYTHONPATH}"
packages=$here/gpu-out/packages
if [[ -n ${FAIRBENCH_WHEELS:-} && ! -e $packages/.complete ]]; then
    if "$python" -m pip install -q --no-index --no-deps --disable-pip-version-check --root-user-action=ignore \
        --upgrade --target "$packages" "$FAIRBENCH_WHEELS"/*.whl; then
        touch "$packages/.complete"
    else
        echo "the wheels in $FAIRBENCH_WHEELS could not be installed" >&2
    fi
fi
[[ -d $packages ]] && export PYTHONPATH="$packages:$PYTHONPATH"
if ! "$python" -c 'import fairbench.methods' 2>/dev/null; then
    # what setup.cfg maps and declares: methods/ as fairbench.methods, and the entry point that finds it
    links=$here/gpu-out/links
    mkdir -p "$links/fairbench" "$links/robust_fairbench-0.dist-info"
    ln -sfn "$here"/fairbench/* "$here/methods" "$here/leaderboards" "$links/fairbench/"
    printf 'Metadata-Version: 2.1\nName: robust-fairbench\nVersion: 0\n' >"$links/robust_fairbench-0.dist-info/METADATA"
    printf '[fairbench.methods]\nbuiltin = fairbench.methods\n' >"$links/robust_fairbench-0.dist-info/entry_points.txt"
    export PYTHONPATH="$links:$PYTHONPATH" PYTHONSAFEPATH=1 # else the folder of the checkout would come first
fi
