"""What is kept of a call's sound and words, all on the line's own clock."""
