"""Qdrant, a server, a cluster or embedded, as a store."""
