"""The model worker: its protocol, both ends of a model session, and the process that serves them."""
