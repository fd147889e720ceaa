"""The ingress's ASGI application."""
