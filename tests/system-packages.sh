# Installs the Debian packages that the tests' real peers come from, unless all are there.
set -eu
wanted=$(sed 's/#.*//' "$(dirname "$0")/system-packages.txt" | tr '\n' ' ')
missing=""
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
give_up() {
    echo "almena: the tests need these Debian packages:$missing" >&2
    echo "almena: $1" >&2
    exit 1
}
command -v apt-get >/dev/null || give_up "this system has no apt-get; install their like by hand"
run=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || give_up "you are not root and there is no sudo; let root run: apt install$missing"
    run="sudo"
fi
echo "almena: installing$missing …"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq || give_up "the package lists cannot be fetched; is there a network?"
# shellcheck disable=SC2086
$run apt-get install -y -qq --no-install-recommends $missing >/dev/null || give_up "they could not be installed; the reason is above"
