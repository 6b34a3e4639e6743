#!/usr/bin/env bash
# Installs the servers of tests/stack: Prometheus, promtool, Alertmanager and amtool from Debian, and
# an OpenTelemetry Collector and VictoriaMetrics built into .servers/, with the linters of rules and
# dashboards, pint and dashboard-linter. Installed ones are kept.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly SUITE=forky
readonly PACKAGES=(prometheus promtool prometheus-alertmanager)
readonly PROMETHEUS_LEAST=3.5
readonly ALERTMANAGER_LEAST=0.33
readonly MANIFEST=tools/collector/builder.yaml
readonly COLLECTOR=.servers/bin/otelcol-genmeter
readonly COLLECTOR_STAMP=.servers/collector.stamp
readonly LINTERS=tools/linters
readonly VICTORIA=tools/victoriametrics
readonly VICTORIA_STAMP=.servers/victoria-metrics.stamp

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
    die "no 'go' on the PATH: the Collector, VictoriaMetrics and the linters are built with Go 1.26 or newer; install it"
}

build_collector() {
  need_go
  local version
  version=$(sed -n 's/^  version: //p' "$MANIFEST")
  mkdir -p .servers/bin
  GOBIN=$PWD/.servers/bin go install "go.opentelemetry.io/collector/cmd/builder@v$version"
  .servers/bin/builder --config "$MANIFEST"
  mv .servers/collector/otelcol-genmeter "$COLLECTOR"
  cksum <"$MANIFEST" >"$COLLECTOR_STAMP"
}

victoria_sum() {
  cat "$VICTORIA/go.mod" "$VICTORIA/go.sum" | cksum
}

victoria_version() {
  sed -n 's/^.*github.com\/VictoriaMetrics\/VictoriaMetrics \([^ ]*\).*/\1/p' "$VICTORIA/go.mod"
}

build_victoria() {
  need_go
  mkdir -p .servers/bin
  CGO_ENABLED=0 GOBIN=$PWD/.servers/bin go -C "$VICTORIA" install \
    "$(sed -n 's/^tool //p' "$VICTORIA/go.mod")"
  victoria_sum >"$VICTORIA_STAMP"
}

# The package of the tool in a linter's module.
linter_package() {
  sed -n 's/^tool //p' "$LINTERS/$1/go.mod"
}

# The version in a linter's module.
linter_version() {
  sed -n 's/^require [^ (]* \([^ ]*\).*/\1/p' "$LINTERS/$1/go.mod"
}

linter_sum() {
  cat "$LINTERS/$1/go.mod" "$LINTERS/$1/go.sum" | cksum
}

linter_installed() {
  [ -x ".servers/bin/$1" ] && [ "$(linter_sum "$1")" = "$(cat ".servers/$1.stamp" 2>/dev/null)" ]
}

build_linter() {
  need_go
  mkdir -p .servers/bin
  GOBIN=$PWD/.servers/bin go -C "$LINTERS/$1" install "$(linter_package "$1")"
  linter_sum "$1" >".servers/$1.stamp"
}

if servers_installed; then
  echo "Prometheus and Alertmanager are installed"
else
  install_from_debian
fi
if [ -x "$COLLECTOR" ] && [ "$(cksum <"$MANIFEST")" = "$(cat "$COLLECTOR_STAMP" 2>/dev/null)" ]; then
  echo "the OpenTelemetry Collector is installed"
else
  build_collector
fi
if [ -x .servers/bin/victoria-metrics ] && [ "$(victoria_sum)" = "$(cat "$VICTORIA_STAMP" 2>/dev/null)" ]; then
  echo "VictoriaMetrics is installed"
else
  build_victoria
fi
for linter in pint dashboard-linter; do
  if linter_installed "$linter"; then
    echo "$linter is installed"
  else
    build_linter "$linter"
  fi
done

echo "prometheus $(version_of prometheus), promtool $(version_of promtool)"
echo "alertmanager $(version_of prometheus-alertmanager), amtool $(version_of amtool)"
echo "collector $("$COLLECTOR" --version)"
echo "victoria-metrics $(victoria_version)"
echo "pint $(linter_version pint), dashboard-linter $(linter_version dashboard-linter)"
