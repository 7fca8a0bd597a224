"""The Moshi runtime: codec, language model, engine and worker. Needs torch, and nothing of the telephone."""
