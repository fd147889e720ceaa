"""Answers kept: keys, policy, entries, stores, and the shards' small protocol."""
