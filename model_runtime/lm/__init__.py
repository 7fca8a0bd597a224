"""The language model: temporal and depth transformers, and the token grid between them."""
