// The schemas of the Prometheus Operator's resources, for tests/stack.
// tools/install-crds.sh copies them, of the version here and the sum in go.sum.
module genmeter.invalid/kubernetes

go 1.24

require github.com/prometheus-operator/prometheus-operator v0.85.0
