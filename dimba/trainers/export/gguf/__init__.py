"""GGUF by llama.cpp itself: its converter and quantiser, its library that runs the result, Ollama's Modelfile."""
