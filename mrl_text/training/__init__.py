"""Contrastive fine-tuning by recipe: data sources, trainer, run folders."""
