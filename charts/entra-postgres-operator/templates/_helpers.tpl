{{- define "epo.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "epo.fullname" -}}
{{- $name := include "epo.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* A Service's name has no dots and at most 63 characters, whatever the release is called. */}}
{{- define "epo.metricsname" -}}
{{ include "epo.fullname" . | replace "." "-" | trunc 55 | trimSuffix "-" }}-metrics
{{- end }}

{{/* Names of objects without a namespace: two releases may have the same name in two namespaces. */}}
{{- define "epo.clustername" -}}
{{- $name := include "epo.fullname" . -}}
{{- if eq $name .Release.Namespace -}}
{{ $name }}
{{- else -}}
{{ printf "%s:%s" .Release.Namespace $name }}
{{- end -}}
{{- end }}

{{- define "epo.selector" -}}
app.kubernetes.io/name: {{ include "epo.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "epo.labels" -}}
{{ include "epo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of the pod: the chart's own, which selectors stand on, and further ones. */}}
{{- define "epo.podlabels" -}}
{{- $own := include "epo.labels" . | fromYaml -}}
{{- if .Values.workloadIdentity.enabled -}}
{{- $_ := set $own "azure.workload.identity/use" "true" -}}
{{- end -}}
{{- range $key, $value := .Values.podLabels -}}
{{- if hasKey $own $key -}}
{{- fail (printf "podLabels: the chart sets %s itself: leave it out" $key) -}}
{{- end -}}
{{- $_ := set $own $key $value -}}
{{- end -}}
{{ toYaml $own }}
{{- end }}

{{/* Values that would be ignored without a word. */}}
{{- define "epo.check" -}}
{{- with .Values -}}
{{- if and (gt (int .replicas) 1) (not .leaderElection) -}}
{{- fail "replicas is more than 1: leaderElection must be true" -}}
{{- end -}}
{{- with .workloadIdentity -}}
{{- if and (or .clientId .tenantId) (not .enabled) -}}
{{- fail "workloadIdentity.clientId and tenantId have no effect: set workloadIdentity.enabled to true, or leave them out" -}}
{{- end -}}
{{- if and .enabled (or .clientId .tenantId) (not $.Values.serviceAccount.create) -}}
{{- fail (printf "workloadIdentity.clientId and tenantId are annotations of the service account, which the chart does not make (serviceAccount.create is false): annotate %s yourself, and leave them out" $.Values.serviceAccount.name) -}}
{{- end -}}
{{- end -}}
{{- with .proxy -}}
{{- if and .existingSecret (or .httpsProxy .noProxy) -}}
{{- fail "proxy.existingSecret has both variables: leave proxy.httpsProxy and proxy.noProxy out, or existingSecret" -}}
{{- end -}}
{{- if and .noProxy (not .existingSecret) (not .httpsProxy) -}}
{{- fail "proxy.noProxy has no effect without proxy.httpsProxy: set it, or leave noProxy out" -}}
{{- end -}}
{{- end -}}
{{- if and .metrics.serviceMonitor.enabled .metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would scrape everything twice: enable one of the two" -}}
{{- end -}}
{{- $clouds := list "Public" "USGovernment" "China" -}}
{{- range .config.clouds -}}
{{- $clouds = append $clouds .name -}}
{{- end -}}
{{- range $name, $_ := .config.serverSuffixes -}}
{{- if not (has $name $clouds) -}}
{{- fail (printf "config.serverSuffixes: there is no cloud %s: use one of %s, or define it in config.clouds" $name (join ", " $clouds)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "epo.account" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "epo.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "epo.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The namespaces to work in, as JSON; none at cluster scope. */}}
{{- define "epo.namespaces" -}}
{{- if .Values.clusterScope -}}
{{- if .Values.watchNamespaces -}}
{{- fail "clusterScope is true: remove watchNamespaces, or set clusterScope to false" -}}
{{- end -}}
[]
{{- else -}}
{{ default (list .Release.Namespace) .Values.watchNamespaces | uniq | sortAlpha | toJson }}
{{- end -}}
{{- end }}

{{/* Whether a request is the operator's. Its account by name; or, because kustomize renames and moves the
account without changing this text, whoever has this release's mark, which its roles give and nothing asks
for. Who has every right has the mark of nobody, too. */}}
{{- define "epo.mark" -}}
{{ printf "%s:%s" .Release.Namespace (include "epo.fullname" .) }}
{{- end }}

{{- define "epo.isOperator" -}}
{{- $account := printf "system:serviceaccount:%s:%s" .Release.Namespace (include "epo.account" .) -}}
{{- $mark := "authorizer.group(\"entrapostgres.io\").resource(\"operators\").namespace(request.namespace)" -}}
expression: >-
  request.userInfo.username == {{ $account | toJson }} ||
  (request.userInfo.username.startsWith("system:serviceaccount:") &&
  {{ $mark }}.name({{ include "epo.mark" . | toJson }}).check("operate").allowed() &&
  !{{ $mark }}.name("nobody").check("operate").allowed())
{{- end }}

{{/* The audiences of tokens that the operator may ask for, as JSON. */}}
{{- define "epo.audiences" -}}
{{- if .Values.tokenAudiences -}}
{{ .Values.tokenAudiences | uniq | toJson }}
{{- else -}}
{{- $all := list "api://AzureADTokenExchange" "api://AzureADTokenExchangeUSGov" "api://AzureADTokenExchangeChina" -}}
{{- range .Values.config.clouds -}}
{{- $all = append $all .federatedAudience -}}
{{- end -}}
{{ $all | uniq | toJson }}
{{- end -}}
{{- end }}

{{- define "epo.config" -}}
{{- if .Values.config -}}
{{ toYaml .Values.config }}
{{- else -}}
# Nothing is configured: the defaults hold.
{{- end -}}
{{- end }}

{{/* What the operator may do in a namespace it works in. */}}
{{- define "epo.rules" -}}
# Nothing is asked for by this: it tells the admission policies who the operator is.
- apiGroups: [entrapostgres.io]
  resources: [operators]
  resourceNames: [{{ include "epo.mark" . | toJson }}]
  verbs: [operate]
# Patch is for the finalizers: a principal's until its role is dropped, a server's until the last of these is.
- apiGroups: [entrapostgres.io]
  resources: [entrapostgresservers, entrapostgresprincipals]
  verbs: [get, list, watch, patch]
- apiGroups: [entrapostgres.io]
  resources: [entrapostgresservers/status, entrapostgresprincipals/status]
  verbs: [patch]
# Clusters with OwnerReferencesPermissionEnforcement ask for it: Secrets name their principal.
- apiGroups: [entrapostgres.io]
  resources: [entrapostgresprincipals/finalizers]
  verbs: [update]
# Those with tokens, and those that identities and certificates refer to.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, serviceaccounts]
  verbs: [get]
# For which audiences, the admission policy says.
- apiGroups: [""]
  resources: [serviceaccounts/token]
  verbs: [create]
# Labels, for the tenants of servers.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* The source of the volume with further certificates, as JSON; empty without one. */}}
{{- define "epo.caBundle" -}}
{{- with .Values.caBundle -}}
{{- if and .configMapName .secretName -}}
{{- fail "caBundle names a ConfigMap and a Secret: name one of the two" -}}
{{- else if .configMapName -}}
{{ dict "configMap" (dict "name" .configMapName) | toJson }}
{{- else if .secretName -}}
{{ dict "secret" (dict "secretName" .secretName "items" (list (dict "key" .key "path" .key))) | toJson }}
{{- else -}}
{}
{{- end -}}
{{- end -}}
{{- end }}
