#!/usr/bin/env bash
# Makes the virtual environment of this project, or brings it up to date:
#
#   infra/local/make-venv.sh VENV
#
# Everything is installed at the versions and hashes of requirements.lock, and Keyway itself as an editable
# package. It needs Python 3.11 or newer; harmless to repeat, and quick when nothing changed.
set -euo pipefail

PYTHONS=(python3 python3.13 python3.12 python3.11)
UV='uv>=0.9,<1'

say() { printf 'make-venv: %s\n' "$*"; }

fail() {
    say "$*" >&2
    exit 1
}

# is_usable PYTHON: whether it runs, and is new enough.
is_usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# has_venv PYTHON: whether it can make environments; Debian's python3 has venv without ensurepip, which can't.
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

find_python() {
    local python
    for python in "${PYTHONS[@]}"; do
        if is_usable "$python"; then
            printf '%s\n' "$python"
            return
        fi
    done
    fail "needs Python 3.11 or newer and finds none; on Debian 12: apt-get install python3 python3-venv"
}

# install_venv_module PYTHON: Debian ships python3 without the module that makes environments.
install_venv_module() {
    local package="$1-venv"
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        fail "$1 can't make virtual environments; install Debian's package $package: apt-get install $package"
    fi
    say "installing Debian's package $package, since $1 can't make virtual environments without it"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
    has_venv "$1" || fail "$package is installed, and $1 still can't make virtual environments"
}

make_environment() {
    local python
    python=$(find_python)
    has_venv "$python" || install_venv_module "$python"
    say "making $1 with $("$python" --version)"
    "$python" -m venv --clear "$1"
}

main() {
    [[ $# -eq 1 ]] || fail "expected one argument, the folder of the environment: $0 VENV"
    mkdir -p "$(dirname "$1")"
    local venv project
    venv=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
    project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    if [[ ! -x $venv/bin/pip ]] || ! is_usable "$venv/bin/python"; then
        make_environment "$venv"
    fi
    if ! "$venv/bin/uv" --version >/dev/null 2>&1; then
        say "installing uv, which installs the rest"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$UV"
    fi
    cd "$project"
    export UV_PYTHON="$venv/bin/python"
    say "installing what requirements.lock names"
    "$venv/bin/uv" pip install --quiet --require-hashes -r requirements.lock
    "$venv/bin/uv" pip install --quiet --no-deps -e .
    say "ready: $venv"
}

main "$@"
