"""What an agent does besides talking: what sets an action off, and its steps."""
