# Makes a virtual environment: $1 the Python, $2 the folder.
set -eu
command -v "$1" >/dev/null || {
    echo "almena: there is no $1. Name a Python 3.10 or newer: make PYTHON=python3.11 run" >&2
    exit 1
}
"$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "almena needs Python 3.10 or newer; $1 is $("$1" --version 2>&1). Choose another: make PYTHON=python3.11 run" >&2
    exit 1
}
"$1" -m venv "$2" >/dev/null 2>&1 && exit 0
rm -rf "$2"
"$1" -m virtualenv --quiet "$2" 2>/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "almena: installing python3-venv …"
    if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; then
        "$1" -m venv "$2" && exit 0
    fi
fi
echo "almena: $1 cannot make a virtual environment. On Debian or Ubuntu: sudo apt install python3-venv" >&2
exit 1
