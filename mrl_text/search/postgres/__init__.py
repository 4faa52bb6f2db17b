"""PostgreSQL with pgvector, as a store."""

try:
    import pgvector  # noqa: F401
    import psycopg  # noqa: F401
except ModuleNotFoundError as error:  # pragma: no cover
    raise ModuleNotFoundError(
        "a store in PostgreSQL needs psycopg and pgvector: pip install 'mrl-text[postgres]'", name=error.name
    ) from error
