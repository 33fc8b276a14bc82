#!/usr/bin/env bash
# The quick tests on every Python that the project supports, with the newest packages that it allows and with the oldest.
# What fails is named at the end. Environments are made in a folder that is removed again; nothing here knows of a CI.
#
#   tests/matrix.sh [PYTEST ARGUMENT...]        default: -m "not slow"
#   PYTHONS="3.11 3.13" RESOLUTIONS=lowest-direct tests/matrix.sh tests/unit
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
read -ra pythons <<< "${PYTHONS:-3.11 3.12 3.13}"
read -ra resolutions <<< "${RESOLUTIONS:-highest lowest-direct}"
if [ $# = 0 ]; then
  set -- -m "not slow"
fi
if command -v pyenv > /dev/null; then
  PYENV_VERSION=$(pyenv versions --bare | paste -sd:) # its python3.x are there, but answer for the chosen ones alone
  export PYENV_VERSION
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=()
for python in "${pythons[@]}"; do
  if ! "$uv" python find "$python" > /dev/null 2>&1; then
    echo "== Python $python: uv finds none, not tested"
    continue
  fi
  for resolution in "${resolutions[@]}"; do
    echo "== Python $python, $resolution"
    venv=$folder/$python-$resolution
    "$uv" venv --quiet --python "$python" "$venv"
    if ! VIRTUAL_ENV=$venv "$uv" pip install --quiet --compile-bytecode --resolution "$resolution" \
      --editable . --group dev; then
      failed+=("Python $python, $resolution: the packages cannot be installed")
    elif ! "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"; then
      failed+=("Python $python, $resolution")
    fi
    rm -rf "$venv"
  done
done
printf 'failed: %s\n' "${failed[@]:-nothing}"
[ ${#failed[@]} = 0 ]
