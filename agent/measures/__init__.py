"""What a call was like, measured at its edge: who spoke when, and where each frame spent its time."""
