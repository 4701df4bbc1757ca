#!/usr/bin/env bash
# Runs the tests with the oldest libraries that setup.py allows: every `>=` of the core and dev
# requirements becomes `==`, in a virtual environment that is removed afterwards. Arguments go to
# pytest:
#     launch/test_lowest.sh -n 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
export PIP_QUIET=2 PIP_DISABLE_PIP_VERSION_CHECK=1

"$venv/bin/pip" install --no-deps -e .
"$venv/bin/python" - >"$venv/lowest.txt" <<'PYTHON'
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

for requirement in map(Requirement, requires("latentum_jax")):
    if requirement.marker is None or requirement.marker.evaluate({"extra": "dev"}):
        for bound in requirement.specifier:
            if bound.operator in (">=", "=="):
                print(f"{requirement.name}=={bound.version}")
PYTHON
cat "$venv/lowest.txt"
"$venv/bin/pip" install -e '.[dev]' -c "$venv/lowest.txt"
"$venv/bin/python" -m pytest "$@"
