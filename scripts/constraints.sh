#!/usr/bin/env bash
# Writes constraints.txt anew: newest versions that pyproject.toml admits, with the torch that it pins now.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python=$folder/venv/bin/python
"$python" - > "$folder/requirements.txt" <<'PY'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join(project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]))
PY
grep '^torch==' constraints.txt > "$folder/torch.txt"
"$python" -m pip install --quiet --no-compile --constraint "$folder/torch.txt" --requirement "$folder/requirements.txt"
{
  grep '^#' constraints.txt
  "$python" -m pip list --format=freeze | sed -E 's/\+.*//' | grep -vE '^(pip|nvidia-.*|triton|cuda-.*)=='
} > "$folder/constraints.txt"
cp "$folder/constraints.txt" constraints.txt
echo "constraints.txt: $(grep -c == constraints.txt) versions"
