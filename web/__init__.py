"""The server of serve.py, and its page."""
