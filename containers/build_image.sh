#!/bin/sh
# The steps of the Dockerfile's build stage that are more than one command.
#
#   build_image.sh horovod cpu|gpu   build Horovod, or take the wheel that fits from /wheels;
#                                    none for a controller
#   build_image.sh swell VARIANT     install Swell, remove what only the build needed
set -eu

case "$1" in
horovod)
  [ "$2" = controller ] && exit 0
  gpu=
  if [ "$2" = gpu ]; then
    gpu=--gpu
    # The headers and the library of the NCCL wheel, as Horovod's CMake looks for them.
    nccl="$(python -c 'import nvidia.nccl; print(next(iter(nvidia.nccl.__path__)))')"
    mkdir -p "$HOROVOD_NCCL_HOME/lib"
    ln -s "$nccl/include" "$HOROVOD_NCCL_HOME/include"
    ln -s "$nccl/lib/libnccl.so.2" "$HOROVOD_NCCL_HOME/lib/libnccl.so"
    ln -s "$nccl/lib/libnccl.so.2" "$HOROVOD_NCCL_HOME/lib/libnccl.so.2"
  fi
  SWELL_CACHE=/tmp/swell python containers/build_horovod.py --install --wheels /wheels $gpu
  rm -rf /tmp/swell
  ;;
swell)
  pip install --no-index --no-deps --no-build-isolation .
  pip uninstall --yes --quiet cmake wheel
  pip check
  # The bill of materials: every Python package, with its version, its licence and where it is.
  mkdir -p /opt/swell/share/swell
  pip inspect --local >/opt/swell/share/swell/packages.json
  if [ "$2" = controller ]; then
    # Of Google's package one client is used; these are a quarter of the image. And nothing is
    # installed in it any more.
    site="$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    rm -rf "$site/google/cloud/aiplatform_v1beta1" "$site/google/genai" "$site/vertexai" \
      "$site/agentplatform"
    pip uninstall --yes --quiet setuptools pip
  fi
  ;;
esac
