#!/usr/bin/env bash
# llama.cpp's OpenAI-compatible server with a tiny model of random weights, on a loopback port: run.sh PORT
# The first call compiles llama-cpp-python into a virtual environment beside this file, which takes some ten minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${FANOUT_LLAMA_VENV:-$here/.venv}
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import gguf, llama_cpp.server' 2>/dev/null; then
  python3 -m venv "$venv"
  nice -n 19 "$venv/bin/pip" install -q 'llama-cpp-python[server]==0.3.36' 'gguf==0.19.0'
fi
[ -f "$venv/tiny.gguf" ] || "$venv/bin/python" "$here/tiny_model.py" "$venv/tiny.gguf"
exec "$venv/bin/python" -m llama_cpp.server --model "$venv/tiny.gguf" --host 127.0.0.1 --port "${1:?usage: run.sh PORT}" \
  --n_ctx 512 --chat_format chatml-function-calling --model_alias tiny --verbose false
