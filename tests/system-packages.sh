# Installs the Debian packages that the tests' real peers come from, unless all are there.
set -eu
wanted=$(sed 's/#.*//' "$(dirname "$0")/system-packages.txt" | tr '\n' ' ')
missing=""
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
echo "almena: installing$missing …"
if [ "$(id -u)" = 0 ]; then run=""; else run="sudo"; fi
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq
# shellcheck disable=SC2086
$run apt-get install -y -qq --no-install-recommends $missing >/dev/null
