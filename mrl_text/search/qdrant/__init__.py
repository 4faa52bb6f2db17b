"""Qdrant, as a store."""

try:
    import qdrant_client  # noqa: F401
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "this store needs Qdrant's client: pip install 'mrl-text[qdrant]'", name=error.name
    ) from error
