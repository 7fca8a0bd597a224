"""The conversation: sessions, routing, records, the gateway process and the command line."""
