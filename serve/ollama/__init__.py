"""One Ollama server: its client, its supervisor, its catalogue."""
