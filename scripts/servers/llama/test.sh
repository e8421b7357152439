#!/usr/bin/env bash
# Starts llama.cpp's server on a free loopback port, runs tests/real_chat against it, and ends it: test.sh PYTHON
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${1:?usage: test.sh PYTHON}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$here/run.sh" "$port" &
server=$!
trap 'kill "$server" 2> /dev/null || true' EXIT
until "$python" - "$port" << 'PY'
import sys, urllib.request
try:
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/v1/models", timeout=2).read()
except OSError:
    sys.exit(1)
PY
do
  kill -0 "$server" || { echo 'the server ended before it was ready' >&2; exit 1; }
  sleep 2
done
FANOUT_LLAMA_URL="http://127.0.0.1:$port" "$python" -m pytest "$here/../../../tests/real_chat" -m ''
