"""The engine over HTTP: an OpenAI-compatible service and a page."""
