"""An engine that speaks Ollama's API over llama.cpp, for machines without Ollama."""
