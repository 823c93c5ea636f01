#!/usr/bin/env bash
# Builds the training image, or that of a run's controller, with podman or docker.
#
#   containers/build.sh cpu|gpu|controller TAG [ARGUMENT ...]     arguments are for the engine's build
#
#   ENGINE           podman or docker; by default the one that is here
#   BASE_IMAGE, BUILD_IMAGE   other base images
#   TORCH_PIP_ARGS   where pip finds PyTorch's CPU build, as for make setup
#   SWELL_CACHE      where make setup keeps Horovod wheels; one that fits is not built again
set -euo pipefail
cd "$(dirname "$0")/.."

variant="${1:?cpu, gpu or controller}" tag="${2:?the name of the image}"
shift 2
case "$variant" in
cpu | controller) base="${BASE_IMAGE:-docker.io/library/debian:bookworm-slim}" build="${BUILD_IMAGE:-$base}" ;;
gpu)
  # The CUDA of requirements-gpu.txt; PyTorch brings its libraries, so the smallest base does.
  base="${BASE_IMAGE:-docker.io/nvidia/cuda:13.0.1-base-ubuntu24.04}"
  build="${BUILD_IMAGE:-docker.io/nvidia/cuda:13.0.1-devel-ubuntu24.04}"
  ;;
*)
  echo "the variant is cpu, gpu or controller, not $variant" >&2
  exit 2
  ;;
esac

engine="${ENGINE:-$(command -v podman || command -v docker || true)}"
if [[ -z $engine ]]; then
  echo "building an image needs podman or docker: apt-get install podman buildah" >&2
  exit 2
fi
arguments=(--file containers/Dockerfile --tag "$tag")
arguments+=(--build-arg "BASE_IMAGE=$base" --build-arg "BUILD_IMAGE=$build")
arguments+=(--build-arg "VARIANT=$variant" --build-arg "PIP_ARGS=${TORCH_PIP_ARGS:-}")
arguments+=(--build-arg "VERSION=$(sed -n 's/^version = //p' setup.cfg)")
arguments+=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || true)")
wheels="${SWELL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/swell}/wheels"
[[ -d $wheels ]] && arguments+=(--build-context "wheels=$wheels")
if [[ $(basename "$engine") == podman ]]; then
  arguments+=(--format docker) # keeps what OCI images have no field for
  if [[ $(id -u) == 0 && -z ${CONTAINERS_CONF:-} ]]; then
    CONTAINERS_CONF="$(mktemp)"
    export CONTAINERS_CONF
    trap 'rm -f "$CONTAINERS_CONF"' EXIT
    "${PYTHON:-python3}" -m launcher.emulator.vms.podman >"$CONTAINERS_CONF"
  fi
fi
"$engine" build "${arguments[@]}" "$@" .
"$engine" image inspect --format 'built {{index .RepoTags 0}}: {{.Size}} bytes' "$tag"
