#!/usr/bin/env bash
# Regenerates what is committed but made from something else:
#   generate.sh crds     crds/ from the operator's types
#   generate.sh deploy   the chart's copy of crds/, and deploy/base/ and deploy/namespaced/ from the chart
#   generate.sh render base|namespaced FOLDER   one of these into another, empty folder
#   generate.sh --check  fails if either is not what would be generated now
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=entra-postgres-operator
chart_definitions=charts/$name/files/crds

crds() { # FOLDER
    rm -rf "$1"
    mkdir -p "$1"
    cargo run -q --locked -p entra-postgres-operator -- crds --output-dir "$1"
}

# Every file of the chart becomes one of the same name, so that a change reads well. What only Helm
# reads is taken out: nobody who applies these files can `helm upgrade` them.
render() { # FOLDER HELM-ARGUMENTS...
    local helm folder=$1 file
    shift
    helm=$(tests/control-plane/build.sh helm)/helm
    rm -rf "$folder"
    mkdir -p "$folder"
    "$helm" template "$name" "charts/$name" --namespace "$name" "$@" --output-dir "$folder/out" >/dev/null
    mv "$folder"/out/*/templates/* "$folder"/
    rm -r "$folder/out"
    sed -i -e '/helm\.sh\/chart:/d' -e '/managed-by: Helm/d' -e '/^# Source: /d' "$folder"/*.yaml
    cat >"$folder/namespace.yaml" <<END
---
apiVersion: v1
kind: Namespace
metadata:
  name: $name
  labels:
    pod-security.kubernetes.io/enforce: restricted
END
    {
        echo "# Rendered from charts/$name: change that, then run 'make deploy'."
        echo "apiVersion: kustomize.config.k8s.io/v1beta1"
        echo "kind: Kustomization"
        echo "resources:"
        for file in "$folder"/*.yaml; do
            [ "${file##*/}" = kustomization.yaml ] || echo "- ${file##*/}"
        done
    } >"$folder/kustomization.yaml"
}

base() { render "$1" --set clusterScope=true; }
# Its own namespace, also where an overlay moves it to another one.
namespaced() {
    render "$1"
    sed -i "s/--watch-namespaces=$name\$/--watch-namespaces=\$(POD_NAMESPACE)/" "$1/deployment.yaml"
}

# The chart must carry the definitions itself: Helm reads nothing outside its folder.
definitions() { # FOLDER
    rm -rf "$1"
    cp -r crds "$1"
}

same() { # COMMITTED GENERATED TARGET
    diff -ru "$1" "$2" && return
    echo "$1/ is not what would be generated: run 'make $3'" >&2
    exit 1
}

case ${1:-} in
    crds) crds crds ;;
    deploy)
        definitions "$chart_definitions"
        base deploy/base
        namespaced deploy/namespaced
        ;;
    render) "$2" "$3" ;;
    --check)
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        crds "$scratch/crds"
        same crds "$scratch/crds" crds
        same crds "$chart_definitions" deploy
        base "$scratch/base"
        same deploy/base "$scratch/base" deploy
        namespaced "$scratch/namespaced"
        same deploy/namespaced "$scratch/namespaced" deploy
        ;;
    *) echo "usage: generate.sh crds | deploy | render base|namespaced FOLDER | --check" >&2; exit 2 ;;
esac
