"""PostgreSQL with pgvector, as a store."""
