"""GGUF, llama.cpp's file format: read and written as one more published format."""
