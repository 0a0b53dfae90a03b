#!/usr/bin/env bash
# The steps of an image of cola-scaling, on Debian 12 or newer: image.sh system | packages DEVICE |
# product | user. DEVICE is cpu or cuda. It is called in the project's folder, as root; `cola recipe
# --kind image` prints the Dockerfile that does so.
set -euo pipefail
venv=${COLA_VENV:-/opt/cola/venv}
# torch's own index: PyPI has its CUDA build alone, four gigabytes of libraries that a CPU never loads.
# Empty: where pip is configured to look.
cpu_index=${COLA_CPU_INDEX-https://download.pytorch.org/whl/cpu}

case "${1:-}" in
system)
    # A compiler and Python's headers: torch.compile builds code where it runs. KubeRay looks at a
    # container with wget.
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -y -q --no-install-recommends ca-certificates g++ python3-dev python3-venv wget
    rm -rf /var/lib/apt/lists/*
    ;;
packages)
    # All dependencies, by the versions and hashes of constraints.txt; they stay as they are while
    # sources change. Where torch has no CPU build whose hash is there (other versions of Python), the
    # package index's is installed.
    case "${2:-}" in
    cpu) index=(${cpu_index:+--extra-index-url "$cpu_index"}) ;;
    cuda) index=() ;;
    *) echo "image.sh packages ${2:-}: no such device; give cpu or cuda" >&2; exit 2 ;;
    esac
    python3 -m venv "$venv"
    # First pip, which takes hashes from constraints, and the back end of builds.
    awk '/^[^ ]/ {on = /^(pip|setuptools)==/} on' constraints.txt > /tmp/build.txt
    "$venv/bin/pip" install --no-cache-dir --quiet --require-hashes --requirement /tmp/build.txt
    if [ "$2" = cpu ]; then
        # Also from a folder of wheels, to whose files pip would prefer those with hashes in an index.
        awk '/^# torch-/ {split($2, name, "-"); hashes = hashes " --hash=" $3}
            END {print "torch==" name[2] hashes}' constraints.txt > /tmp/torch.txt
        "$venv/bin/pip" install --no-cache-dir --quiet --no-deps --require-hashes "${index[@]}" \
            --requirement /tmp/torch.txt || echo "torch: no CPU build with a known hash" >&2
        rm /tmp/torch.txt
    fi
    "$venv/bin/python" - > /tmp/requirements.txt <<'LIST'
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")
LIST
    "$venv/bin/pip" install --no-cache-dir --quiet --require-hashes --no-build-isolation \
        "${index[@]}" --constraint constraints.txt --requirement /tmp/requirements.txt
    rm /tmp/build.txt /tmp/requirements.txt
    ;;
product)
    "$venv/bin/pip" install --no-cache-dir --quiet --no-deps --no-build-isolation .
    ;;
user)
    # Not root; 1000 as in Ray's own images, so that a mounted volume's files have one owner.
    useradd --uid 1000 --create-home --shell /bin/bash cola
    ;;
*)
    sed -n 2,4p "$0" >&2
    exit 2
    ;;
esac
