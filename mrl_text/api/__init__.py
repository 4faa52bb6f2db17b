"""Models behind an OpenAI-compatible API, in the place of weights: ``openai:NAME``."""
