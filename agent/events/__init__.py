"""What is told of calls: signed webhooks and server-sent events (docs/events.md)."""
