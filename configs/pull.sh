#!/bin/sh
# Fetch models into this node's store before Ray starts there: pull.sh llama3.2:3b all-minilm …
#
# $OLLAMA_MODELS is the store, as for Ollama itself. What is there already is not asked for again,
# so a node that comes back needs no network. The server that Ollama's `pull` needs lives only as
# long as this script and sees no GPU; of several nodes that share a store, one pulls at a time.
set -eu

: "${OLLAMA_MODELS:?name the store}"
export OLLAMA_HOST="${RAYLLAMA_PULL_HOST:-127.0.0.1:11435}" OLLAMA_NOPRUNE=1 CUDA_VISIBLE_DEVICES=-1

mkdir -p "$OLLAMA_MODELS"
exec 9> "$OLLAMA_MODELS/.pulling"
flock 9

ollama serve > /dev/null 2>&1 9>&- &
server=$!
trap 'kill "$server" 2> /dev/null; wait "$server" 2> /dev/null || true' EXIT

left=60
until ollama list > /dev/null 2>&1; do
    kill -0 "$server" 2> /dev/null || { echo "pull.sh: ollama does not start" >&2; exit 1; }
    left=$((left - 1))
    [ "$left" -gt 0 ] || { echo "pull.sh: ollama does not answer on $OLLAMA_HOST" >&2; exit 1; }
    sleep 1
done

for model in "$@"; do
    ollama show "$model" > /dev/null 2>&1 || ollama pull "$model"
done
