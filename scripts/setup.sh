#!/usr/bin/env bash
# Creates .venv and installs sdvar_exp (editable) with its dependencies, pinned by constraints.txt.
# Does nothing when nothing changed. PYTHON=… picks the interpreter. pip's own settings are left as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
SECONDS=0
venv=.venv
stamp=$venv/setup.stamp
key="$PWD $(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)"
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

works() { "$1" -c "$supported" 2>/dev/null; }

done_in() { # the time is read again by `make demo`
  echo "$1" > "$venv/setup.seconds"
}

if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && works "$venv/bin/python"; then
  echo "setup: .venv is up to date"
  done_in 0
  exit 0
fi

# A virtual environment does not survive a move of its folder, nor its interpreter's removal.
if [ -e "$venv" ] && ! { works "$venv/bin/python" && [ "$(cat "$venv/setup.folder" 2>/dev/null)" = "$PWD" ]; }; then
  echo "setup: .venv was made elsewhere or is broken: making it anew"
  rm -rf "$venv"
fi
if [ ! -e "$venv" ]; then
  found=
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if works "$python"; then found=$python; break; fi
  done
  if [ -z "$found" ]; then
    echo "setup: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make setup PYTHON=/path/to/python" >&2
    exit 1
  fi
  echo "setup: creating .venv with $("$found" --version) ($found)"
  "$found" -m venv "$venv"
  echo "$PWD" > "$venv/setup.folder"
fi
rm -f "$stamp"

log=$venv/setup.log
requirements=$venv/requirements.txt
"$venv/bin/python" - > "$requirements" <<'PY'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join(project["dependencies"] + project["optional-dependencies"]["dev"]))
PY

# The first step brings the build backend, pinned; the second one then needs neither network nor an environment of
# its own. Bytecode of everything would take as long as the installation itself: only what is used is compiled, below.
pip_install() {
  "$venv/bin/python" -m pip install --no-compile --progress-bar off "$@" >> "$log" 2>&1 || {
    echo "setup: pip failed; the end of $log:" >&2
    tail -n 15 "$log" >&2
    exit 1
  }
}
: > "$log"
echo "setup: installing the packages pinned in constraints.txt (torch is the large one; details in $log)"
pip_install --constraint constraints.txt --requirement "$requirements"
echo "setup: installing sdvar_exp itself, after ${SECONDS} s"
pip_install --no-deps --no-build-isolation --editable .
"$venv/bin/python" -m pip check > /dev/null || { "$venv/bin/python" -m pip check >&2; exit 1; }
echo "setup: trying the imports, after ${SECONDS} s"
env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -c "
import hydra, matplotlib.pyplot, pandas, PIL.Image, pyarrow.parquet, rich.progress, safetensors.torch, scipy.stats
import torch, wandb, hypothesis, pytest, xdist
"
echo "$key" > "$stamp"
done_in "$SECONDS"
echo "setup: done in ${SECONDS} s"
