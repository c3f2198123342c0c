{{- define "hermes.name" -}}
{{- printf "%s-%s" .Release.Name (trimPrefix .Release.Name .Chart.Name | trimPrefix "-") | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "hermes.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: hermes-lb
{{- end }}

{{/* Of one part: (list . "balancer"). They never change: selectors can't. */}}
{{- define "hermes.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: hermes-lb
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "hermes.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "hermes.secret" -}}
{{ .Values.secret | default (printf "%s-secrets" (include "hermes.name" .)) }}
{{- end }}

{{- define "hermes.tlsSecret" -}}
{{- if .Values.tls.secret }}{{ .Values.tls.secret }}
{{- else if .Values.tls.certManager.enabled }}{{ include "hermes.name" . }}-tls
{{- end }}
{{- end }}

{{- define "hermes.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "hermes.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Not all on one node, nor in one zone: (list . "balancer"). */}}
{{- define "hermes.spread" -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "hermes.selector" $ | nindent 6 }}
{{- end }}
{{- end }}

{{- define "hermes.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
