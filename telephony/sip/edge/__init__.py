"""The SIP edge: what a peer meets, in front of the line workers (RFC 3261 section 16)."""
