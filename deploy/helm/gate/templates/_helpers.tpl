{{- define "gate.name" -}}
{{- if contains "gate" .Release.Name }}{{ .Release.Name | trunc 52 }}{{ else }}{{ printf "%s-gate" .Release.Name | trunc 52 }}{{ end }}
{{- end }}

{{- define "gate.selector" -}}
app.kubernetes.io/name: gate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gate.labels" -}}
{{ include "gate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "gate.stores" -}}
{{ .Values.stores.existingSecret | default (printf "%s-stores" (include "gate.name" .)) }}
{{- end }}

{{- define "gate.keys" -}}
{{ .Values.keys.existingSecret | default (printf "%s-keys" (include "gate.name" .)) }}
{{- end }}
