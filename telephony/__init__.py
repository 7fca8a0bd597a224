"""Lines: what carries a caller's voice to the gateway and back. Never imports the model's side."""
