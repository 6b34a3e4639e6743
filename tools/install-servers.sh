#!/usr/bin/env bash
# Installs the servers of tests/stack: Prometheus, promtool, Alertmanager and amtool from Debian, the
# oldest supported ones; and, built into .servers/, the newest supported Prometheus and promtool with a
# program that reads pages by Prometheus's own parsers, an
# OpenTelemetry Collector, VictoriaMetrics with vmalert, and the linters of rules and dashboards, pint
# and dashboard-linter. Installed ones are kept: those whose inputs and own sums are as in their stamp.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly SUITE=forky
readonly PACKAGES=(prometheus promtool prometheus-alertmanager)
readonly PROMETHEUS_LEAST=3.5
readonly ALERTMANAGER_LEAST=0.33
readonly MANIFEST=tools/collector/builder.yaml
readonly COLLECTOR=.servers/bin/otelcol-genmeter
readonly PROMETHEUS=tools/prometheus
readonly VICTORIA=tools/victoriametrics
readonly LINTERS=tools/linters

readonly APT_SOURCE=/etc/apt/sources.list.d/genmeter-$SUITE.sources
readonly APT_PIN=/etc/apt/preferences.d/genmeter-$SUITE
readonly POLICY=/usr/sbin/policy-rc.d
readonly POLICY_SAVED=/usr/sbin/policy-rc.d.before-genmeter

die() {
  echo "install-servers: $*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this step needs root: run it as root, or install sudo"
  fi
}

# version_of PROGRAM: the first version in the output of `PROGRAM --version`, or nothing.
version_of() {
  command -v "$1" >/dev/null || return 0
  "$1" --version 2>&1 | sed -n '1s/.*version \([0-9][0-9.]*\).*/\1/p'
}

# at_least VERSION MINIMUM
at_least() {
  [ -n "$1" ] && [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

servers_installed() {
  at_least "$(version_of prometheus)" "$PROMETHEUS_LEAST" &&
    at_least "$(version_of promtool)" "$PROMETHEUS_LEAST" &&
    at_least "$(version_of prometheus-alertmanager)" "$ALERTMANAGER_LEAST" &&
    at_least "$(version_of amtool)" "$ALERTMANAGER_LEAST"
}

# The Debian mirror of this machine: that of the first entry for its release.
debian_uri() {
  local codename
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  local files=()
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [ "$file" = "$APT_SOURCE" ] || [ ! -f "$file" ] || files+=("$file")
  done
  if [ ${#files[@]} -gt 0 ]; then
    awk -v codename="$codename" '
      function finish() { if (deb && here && uri != "" && !done) { print uri; done = 1 }
                          deb = here = 0; uri = "" }
      /^#/ { next }
      FNR == 1 || /^[[:space:]]*$/ { finish() }
      tolower($1) == "types:" { for (i = 2; i <= NF; i++) if ($i == "deb") deb = 1 }
      tolower($1) == "uris:" { uri = $2 }
      tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == codename) here = 1 }
      END { finish() }' "${files[@]}" | head -n 1 | grep . && return
  fi
  files=()
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -f "$file" ] || files+=("$file")
  done
  [ ${#files[@]} -eq 0 ] || sed -n 's/^deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}//p' "${files[@]}" |
    awk -v codename="$codename" '$2 == codename { print $1; exit }'
}

# Debian starts daemons on installation, unless this file forbids it.
forbid_daemons() {
  [ ! -e "$POLICY" ] || [ -e "$POLICY_SAVED" ] || as_root mv "$POLICY" "$POLICY_SAVED"
  trap put_apt_back EXIT
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
  as_root chmod 755 "$POLICY"
}

put_apt_back() {
  as_root rm -f "$APT_SOURCE" "$APT_PIN" "$POLICY"
  [ ! -e "$POLICY_SAVED" ] || as_root mv "$POLICY_SAVED" "$POLICY"
}

install_from_debian() {
  if ! command -v apt-get >/dev/null || ! grep -q '^ID=debian' /etc/os-release; then
    die "this is not Debian: put prometheus and promtool >= $PROMETHEUS_LEAST and" \
      "prometheus-alertmanager and amtool >= $ALERTMANAGER_LEAST on the PATH, then run this again"
  fi
  local uri
  uri=$(debian_uri)
  [ -n "$uri" ] || die "no Debian entry for this release in /etc/apt: the sources name no archive"

  forbid_daemons
  # The newer release applies to these packages only, and only while this script runs.
  as_root tee "$APT_SOURCE" >/dev/null <<END
Types: deb
URIs: $uri
Suites: $SUITE
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
  as_root tee "$APT_PIN" >/dev/null <<END
Package: *
Pin: release n=$SUITE
Pin-Priority: -1

Package: ${PACKAGES[*]}
Pin: release n=$SUITE
Pin-Priority: 990
END
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Check-Valid-Until=false
    -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
  as_root "${apt[@]}" update ||
    echo "install-servers: not every apt source answered; going on with those that did" >&2
  as_root "${apt[@]}" install -y --no-install-recommends "${PACKAGES[@]}"
  put_apt_back
  trap - EXIT
  servers_installed || die "Debian $SUITE gave Prometheus '$(version_of prometheus)' and" \
    "Alertmanager '$(version_of prometheus-alertmanager)'; needed are" \
    "$PROMETHEUS_LEAST and $ALERTMANAGER_LEAST"
}

need_go() {
  command -v go >/dev/null ||
    die "no 'go' on the PATH: Prometheus, the Collector, VictoriaMetrics and the linters are built with Go 1.26 or newer; install it"
}

# is_built NAME INPUTS PROGRAM...: whether the programs are those that `stamp` saw, of these inputs.
is_built() {
  local stamp=.servers/$1.stamp inputs=$2
  shift 2
  [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$inputs" ] &&
    [ "$(tail -n +2 "$stamp" | wc -l)" -eq $# ] &&
    (cd .servers/bin && tail -n +2 "../${stamp#.servers/}" | sha256sum --check --status)
}

# stamp NAME INPUTS PROGRAM...: record what was built of which inputs.
stamp() {
  local file=.servers/$1.stamp inputs=$2
  shift 2
  (cd .servers/bin && sha256sum "$@") >"$file.new"
  { echo "$inputs" && cat "$file.new"; } >"$file"
  rm "$file.new"
}

# build NAME FOLDER PROGRAM=PACKAGE...: build programs of a folder with go.mod and go.sum, which pin the
# versions and sums of all modules, and our own sources. FLAGS has further flags. One package at a time and at a low
# priority, since some take more than a gigabyte to compile.
build() {
  local name=$1 folder=$2 pair inputs programs=()
  shift 2
  for pair in "$@"; do programs+=("${pair%%=*}"); done
  inputs=$({ cat "$folder/go.mod" "$folder/go.sum" &&
    find "$folder" -name '*.go' -print0 | sort -z | xargs -0 --no-run-if-empty cat && echo "${FLAGS[*]} $*"; } | sha256sum)
  if is_built "$name" "$inputs" "${programs[@]}"; then
    echo "$name is installed"
    return
  fi
  need_go
  mkdir -p .servers/bin
  for pair in "$@"; do
    CGO_ENABLED=0 nice go -C "$folder" build -p 1 -trimpath "${FLAGS[@]}" \
      -o "$PWD/.servers/bin/${pair%%=*}" "${pair#*=}"
  done
  stamp "$name" "$inputs" "${programs[@]}"
}

build_collector() {
  local inputs version
  inputs=$(sha256sum <"$MANIFEST")
  if is_built collector "$inputs" "$(basename "$COLLECTOR")"; then
    echo "the OpenTelemetry Collector is installed"
    return
  fi
  need_go
  version=$(sed -n 's/^  version: //p' "$MANIFEST")
  mkdir -p .servers/bin
  GOBIN=$PWD/.servers/bin go install "go.opentelemetry.io/collector/cmd/builder@v$version"
  .servers/bin/builder --config "$MANIFEST"
  mv .servers/collector/otelcol-genmeter "$COLLECTOR"
  stamp collector "$inputs" "$(basename "$COLLECTOR")"
}

# module_version FOLDER MODULE: the pinned version.
module_version() {
  sed -n "s|^\(require\)\{0,1\}[[:space:]]*$2 \(v[^ ]*\).*|\2|p" "$1/go.mod"
}

# Prometheus is released as v3.16.0, its module as v0.316.0.
prometheus_version() {
  module_version "$PROMETHEUS" github.com/prometheus/prometheus | sed 's/^v0\.\([0-9]*\)\([0-9][0-9]\)\./\1.\2./; s/\.0\([0-9]\)\./.\1./'
}

if servers_installed; then
  echo "Prometheus and Alertmanager are installed"
else
  install_from_debian
fi
# Without the service discoveries of clouds, whose clients take most of the time and memory.
FLAGS=(-tags "remove_all_sd,enable_dns_sd"
  -ldflags "-s -w -X github.com/prometheus/common/version.Version=$(prometheus_version)")
build prometheus-newest "$PROMETHEUS" \
  prometheus-newest=github.com/prometheus/prometheus/cmd/prometheus \
  promtool-newest=github.com/prometheus/prometheus/cmd/promtool \
  exposition=./exposition
build_collector
FLAGS=(-ldflags "-s -w")
build victoria-metrics "$VICTORIA" \
  victoria-metrics=github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics \
  vmalert=github.com/VictoriaMetrics/VictoriaMetrics/app/vmalert
for linter in pint dashboard-linter; do
  build "$linter" "$LINTERS/$linter" "$linter=$(sed -n 's/^tool //p' "$LINTERS/$linter/go.mod")"
done

echo "prometheus $(version_of prometheus), promtool $(version_of promtool)"
echo "alertmanager $(version_of prometheus-alertmanager), amtool $(version_of amtool)"
echo "collector $("$COLLECTOR" --version)"
PATH=$PWD/.servers/bin:$PATH
echo "newest prometheus $(version_of prometheus-newest), promtool $(version_of promtool-newest)"
echo "victoria-metrics $(module_version "$VICTORIA" github.com/VictoriaMetrics/VictoriaMetrics)"
echo "pint $(module_version "$LINTERS/pint" github.com/cloudflare/pint), dashboard-linter $(module_version "$LINTERS/dashboard-linter" github.com/grafana/dashboard-linter)"
