"""SIP lines: the edge that faces peers, and the pool of line workers behind it."""
