"""Rayllama's processes in plain Python; Ray is named only in `app.py`."""
