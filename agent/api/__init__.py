"""The gateway's HTTP listener: health, figures, running calls, records, events, reload. Runs on its event loop."""
