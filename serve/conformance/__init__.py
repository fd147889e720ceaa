"""What a real Ollama answered, byte for byte, and how a server's answers are held against it.

`recordings/` are the exchanges, `replay` sends one again, `compare` tells what differs,
`permitted` is the one list of what may differ and why, and `suite` runs all of it against a
server at some URL: `rayllama conformance URL`.
"""
