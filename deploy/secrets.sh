#!/bin/sh
# Makes what compose.yaml and the Kubernetes manifests take for secrets, once: passwords and their
# hashes, never the same twice. Usage: deploy/secrets.sh [FOLDER] [NAMESPACE]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/secrets}
namespace=${2:-default}

if [ -e "$folder" ]; then
  echo "$folder is there already: take it away to make new ones" >&2
  exit 2
fi

secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
sha256() { printf %s "$1" | sha256sum | cut -d' ' -f1; }

engine=$(secret) sidecar=$(secret) reader=$(secret)
client=rlkv_$(secret) prometheus=rlkv_$(secret)

# Nobody else enters the folder. The files are readable, since the users inside of containers have
# other numbers than you.
umask 022
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

sed -e "s/@NAMESPACE@/$namespace/g" \
  -e "s/@ENGINE_SHA256@/$(sha256 "$engine")/" \
  -e "s/@SIDECAR_SHA256@/$(sha256 "$sidecar")/" \
  -e "s/@READER_SHA256@/$(sha256 "$reader")/" \
  "$here/valkey/users.acl" > users.acl
printf 'redis://sidecar:%s@valkey:6379/0' "$sidecar" > sidecar_redis_url
printf 'redis://engine:%s@127.0.0.1:6379/0' "$engine" > engine_redis_url
printf 'redis://reader:%s@127.0.0.1:6379/0' "$reader" > reader_redis_url
# As `rlkv token new` writes them.
printf '%s sha256:%s\n' client "$(sha256 "$client")" prometheus "$(sha256 "$prometheus")" > tokens
printf %s "$client" > client_token
printf %s "$prometheus" > prometheus_token
secret > grafana_password
echo "made in $folder: engine_redis_url is for engines, client_token for the decision API"
