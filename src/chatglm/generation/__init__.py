"""Decoding: `engine` is the one loop, `chat` the ChatGLM class over it, `remote` its twin."""
