"""Lines: the pool of line workers in the gateway, and the worker process with PJSIP in it."""
