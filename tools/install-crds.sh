#!/usr/bin/env bash
# Copies the Prometheus Operator's CustomResourceDefinitions into .servers/crds, from the Go module of
# tools/kubernetes, whose sum Go checks.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly MODULE=github.com/prometheus-operator/prometheus-operator
readonly TARGET=.servers/crds
readonly STAMP=$TARGET/.stamp
readonly KINDS=(podmonitors servicemonitors prometheusrules)

wanted=$(cksum tools/kubernetes/go.mod tools/kubernetes/go.sum "$0")
if [ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
if ! command -v go >/dev/null; then
  echo "install-crds: Go is needed to download $MODULE: install it" >&2
  exit 1
fi
echo "Downloading the Prometheus Operator's resource definitions"
folder=$(cd tools/kubernetes && GOFLAGS=-mod=readonly go mod download -json "$MODULE" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
mkdir -p "$TARGET"
for kind in "${KINDS[@]}"; do
  install -m 644 "$folder/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$TARGET/$kind.yaml"
done
echo "$wanted" >"$STAMP"
