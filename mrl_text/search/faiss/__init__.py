"""FAISS in a folder."""

try:
    import faiss  # noqa: F401
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError("searching needs FAISS: pip install 'mrl-text[search]'", name=error.name) from error
