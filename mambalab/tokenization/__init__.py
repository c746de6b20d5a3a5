"""Tokenizers: characters, and tokenizer.json files."""
