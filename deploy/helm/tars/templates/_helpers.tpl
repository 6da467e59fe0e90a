{{- define "tars.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "tars.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels of everything; `component` is added where there is one. */}}
{{- define "tars.labels" -}}
app.kubernetes.io/name: tars
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "tars.selector" -}}
app.kubernetes.io/name: tars
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The alerts, with three quarters of what the bundled servers may store; servers of one's own have 64 GB, as deploy/nats does. */}}
{{- define "tars.alerts" -}}
{{- $alerts := .Files.Get "files/alerts.yaml" }}
{{- if .Values.nats.bundled }}
{{- $store := .Values.nats.maxFileStore }}
{{- $unit := get (dict "M" 1e6 "G" 1e9 "T" 1e12) (regexFind "[MGT]" $store) }}
{{- $bytes := mulf 0.75 (regexFind "^[0-9]+" $store | float64) $unit | int64 }}
{{- $alerts = $alerts | replace "48e9" ($bytes | toString) | replace "of 64 GB" (printf "of %s" $store) }}
{{- end }}
{{- $alerts }}
{{- end }}

{{- define "tars.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "tars.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* What a process of a role needs on a secured NATS. A seed that a group can read is not used, and Kubernetes gives its
Secrets to one: so it is copied; a pod gets the seed of its own role alone. */}}
{{- define "tars.seedVolumes" -}}
- name: seed
  secret: { secretName: {{ .root.Values.nats.secure.seedsSecret }}, items: [{ key: {{ .role }}.nk, path: role.nk }] }
- name: nats-ca
  secret:
    secretName: {{ required "nats.secure.tlsSecret, because nats.secure.seedsSecret is set" .root.Values.nats.secure.tlsSecret }}
    items: [{ key: ca.crt, path: ca.crt }]
{{- end }}

{{- define "tars.keyContainer" -}}
- name: key
  image: {{ include "tars.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sh, -c, {{ printf "umask 077 && cp %s /run/tars/" (join " " .files) | quote }}]
  resources:
    requests: { cpu: 10m, memory: 16Mi }
    limits: { memory: 64Mi }
  securityContext: {{ include "tars.containerSecurity" .root | nindent 4 }}
  volumeMounts:
    - { name: key, mountPath: /run/tars }
    {{- range $name, $path := .mounts }}
    - { name: {{ $name }}, mountPath: {{ $path }}, readOnly: true }
    {{- end }}
{{- end }}

{{/* The environment of every process of TARS, the same that `tars up` gives. */}}
{{- define "tars.environment" -}}
- name: NATS_URL
{{- if .Values.nats.bundled }}
  value: {{ ternary "tls" "nats" (ne .Values.nats.secure.seedsSecret "") }}://{{ include "tars.name" . }}-nats:4222
{{- else if .Values.nats.urlSecret.name }}
  valueFrom: { secretKeyRef: { name: {{ .Values.nats.urlSecret.name }}, key: {{ .Values.nats.urlSecret.key }} } }
{{- else }}
  value: {{ required "nats.url or nats.urlSecret.name, because nats.bundled is false" .Values.nats.url | quote }}
{{- end }}
{{- if eq .Values.redis.mode "none" }}
- name: USE_REDIS
  value: "false"
{{- else }}
- name: REDIS_URL
{{- if eq .Values.redis.mode "bundled" }}
  value: redis://{{ include "tars.name" . }}-redis:6379
{{- else if .Values.redis.urlSecret.name }}
  valueFrom: { secretKeyRef: { name: {{ .Values.redis.urlSecret.name }}, key: {{ .Values.redis.urlSecret.key }} } }
{{- else }}
  value: {{ required "redis.url or redis.urlSecret.name, because redis.mode is external" .Values.redis.url | quote }}
{{- end }}
{{- end }}
- name: STREAM_REPLICAS
  value: {{ ternary .Values.nats.replicas .Values.nats.streamReplicas .Values.nats.bundled | quote }}
{{- if .Values.nats.secure.seedsSecret }}
- name: NATS_NKEY_FILE
  value: /run/tars/role.nk
- name: NATS_CA_FILE
  value: /etc/nats-ca/ca.crt
{{- end }}
- name: LISTEN_ADDRESS
  value: "0.0.0.0"
{{- if .Values.trust.configMap }}
- name: TARS_TRUST
  value: /etc/tars/trust.toml
{{- end }}
{{- with .Values.monitoring.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ kindIs "string" $value | ternary $value ($value | toJson) | quote }}
{{- end }}
{{- end }}

{{/* The job that makes streams and durables. */}}
{{- define "tars.provisionSpec" -}}
backoffLimit: 10
activeDeadlineSeconds: 900
ttlSecondsAfterFinished: 600
template:
  metadata:
    labels:
      {{- include "tars.selector" (dict "root" . "component" "provision") | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    automountServiceAccountToken: false
    {{- with .Values.image.pullSecrets }}
    imagePullSecrets: {{ toYaml . | nindent 6 }}
    {{- end }}
    securityContext: {{ include "tars.podSecurity" 10001 | nindent 6 }}
    {{- if .Values.nats.secure.seedsSecret }}
    initContainers:
      {{- include "tars.keyContainer" (dict "root" . "files" (list "/seed/role.nk") "mounts" (dict "seed" "/seed")) | nindent 6 }}
    {{- end }}
    containers:
      - name: provision
        image: {{ include "tars.image" . }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        args: [provision, --wait, {{ .Values.provision.waitSeconds | quote }}]
        env: {{ include "tars.environment" . | nindent 10 }}
        resources:
          requests: { cpu: 100m, memory: 100Mi }
          limits: { memory: 300Mi }
        securityContext: {{ include "tars.containerSecurity" . | nindent 10 }}
        volumeMounts:
          - { name: tmp, mountPath: /tmp }
          {{- if .Values.nats.secure.seedsSecret }}
          - { name: key, mountPath: /run/tars, readOnly: true }
          - { name: nats-ca, mountPath: /etc/nats-ca, readOnly: true }
          {{- end }}
    volumes:
      - { name: tmp, emptyDir: {} }
      {{- if .Values.nats.secure.seedsSecret }}
      - { name: key, emptyDir: { medium: Memory } }
      {{- include "tars.seedVolumes" (dict "root" . "role" "admin") | nindent 6 }}
      {{- end }}
{{- end }}
