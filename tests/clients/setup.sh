#!/usr/bin/env bash
# Fetches the clients and makes code from the proto for them, side by side,
# below .cache/clients; what is there already and current stays. setup.sh --needs
# only says what is missing on this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tests/clients out=.cache/clients
go=${GO:-go} python=${PYTHON:-python3}

missing=()
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v javac >/dev/null || missing+=(default-jdk-headless)
command -v mvn >/dev/null || missing+=(maven)
command -v grpc_java_plugin >/dev/null || missing+=(protobuf-compiler-grpc-java-plugin)
"$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
  echo "make: the clients of others need: apt-get install ${missing[*]}"
  exit 1
fi
[[ ${1:-} == --needs ]] && exit

# once NAME FILES… -- COMMAND: runs the command, a function, unless it has for
# these files.
once() {
  local name=$1 sum files=()
  shift
  while [[ $1 != -- ]]; do files+=("$1") && shift; done
  shift
  sum=$({ cat "${files[@]}" && echo "$*" && declare -f "$1"; } | sha256sum)
  if [[ ! -e $out/$name.done || $(<"$out/$name.done") != "$sum" ]]; then
    rm -f "$out/$name.done"
    "$@"
    echo "$sum" >"$out/$name.done"
  fi
}

protos=(proto/chorale/v1/inference.proto proto/chorale/v1/adapters.proto third_party/protovalidate/buf/validate/validate.proto)
includes=(-Iproto -Ithird_party/googleapis -Ithird_party/protovalidate)
mine=(chorale/v1/inference.proto chorale/v1/adapters.proto)

venv() { # NAME: the packages of its requirements, which are complete
  "$python" -m venv --clear "$out/$1"
  "$out/$1/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-compile -r "$here/$1/requirements.txt"
}

python_proto() {
  mkdir -p "$out/python-proto"
  "$out/python/bin/python" -m grpc_tools.protoc "${includes[@]}" --python_out="$out/python-proto" --grpc_python_out="$out/python-proto" \
    "${mine[@]}" buf/validate/validate.proto
}

node_packages() {
  mkdir -p "$out/node"
  rm -rf "$out/node/node_modules" && cp "$here"/node/package*.json "$out/node"
  (cd "$out/node" && npm ci --ignore-scripts --no-fund --no-audit --loglevel=error)
}

node_proto() {
  mkdir -p "$out/node/proto"
  "$out/python/bin/python" -m grpc_tools.protoc "${includes[@]}" --plugin="$out/node/node_modules/.bin/protoc-gen-ts_proto" \
    --ts_proto_out="$out/node/proto" --ts_proto_opt=outputServices=grpc-js,esModuleInterop=true,useExactTypes=false "${mine[@]}"
}

node_bundle() {
  "$out/node/node_modules/.bin/esbuild" --log-level=warning --bundle --platform=node --format=esm --packages=external --alias:proto="./$out/node/proto" \
    --outfile="$out/node/grpc_client.mjs" "$here/node/grpc_client.ts"
}

java_packages() {
  mvn -q -B -f "$here/java/pom.xml" dependency:copy-dependencies -DoutputDirectory="$PWD/$out/java/lib" >"$out/maven.log" 2>&1 || {
    sed 's/^/maven: /' "$out/maven.log"
    return 1
  }
  chmod +x "$out"/java/lib/protoc-*.exe
  (cd "$out/java" && rm -rf include && mkdir include && cd include && jar xf ../lib/protobuf-java-3*.jar google/protobuf)
}

java_classes() { # SOURCES…
  rm -rf "$out/java/$1" && mkdir -p "$out/java/$1"
  javac -J-XX:TieredStopAtLevel=1 -J-XX:+UseSerialGC -proc:none -nowarn -Xlint:-deprecation -d "$out/java/$1" -cp "$out/java/lib/*:$out/java/proto" "${@:2}" 2>&1 | { grep -v '^Note: ' || true; }
}

java_proto() {
  rm -rf "$out/java/source" && mkdir -p "$out/java/source"
  "$out"/java/lib/protoc-*.exe -I"$out/java/include" "${includes[@]}" --java_out="$out/java/source" --grpc-java_out="$out/java/source" \
    --plugin=protoc-gen-grpc-java="$(command -v grpc_java_plugin)" "${mine[@]}" buf/validate/validate.proto
  java_classes proto $(find "$out/java/source" -name '*.java')
}

tool() { "$go" build -modfile="tools/$1/go.mod" -o ".cache/bin/$2" "$3"; }

# Each job has its own log; the names of those that fail are told.
python_job() {
  once python "$here/python/requirements.txt" -- venv python
  once python-proto "${protos[@]}" -- python_proto
}
node_job() { once node "$here"/node/package*.json -- node_packages; }
node_code_job() { # after Python's, whose protoc it uses
  once node-proto "${protos[@]}" -- node_proto
  once node-bundle "${protos[@]}" "$here/node/grpc_client.ts" -- node_bundle
}
java_job() {
  once java "$here/java/pom.xml" -- java_packages
  once java-proto "${protos[@]}" -- java_proto
  once java-classes "${protos[@]}" "$here/java/GrpcClient.java" -- java_classes classes "$here/java/GrpcClient.java"
}
bench_job() { once bench "$here/bench/requirements.txt" -- venv bench; }
tools_job() {
  once grpcurl tools/clients/go.mod -- tool clients grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl
  once ghz tools/ghz/go.mod -- tool ghz ghz github.com/bojand/ghz/cmd/ghz
}

together() { # JOBS…
  local job failed=()
  declare -A pids
  for job in "$@"; do
    (set -e; "${job}_job") >"$out/$job.log" 2>&1 &
    pids[$job]=$!
  done
  for job in "$@"; do wait "${pids[$job]}" || failed+=("$job"); done
  for job in "${failed[@]}"; do
    echo "tests/clients: $job could not be made ready (is the package index reachable?):"
    tail -n 20 "$out/$job.log"
  done
  ((${#failed[@]} == 0))
}

mkdir -p "$out" .cache/bin
together python node java bench tools
together node_code
