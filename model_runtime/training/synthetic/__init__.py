"""Dialogues written by a script and spoken by espeak-ng. Runs in the processes of `denwa train synthesize`."""
