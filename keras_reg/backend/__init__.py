"""The one place that knows which backend runs."""
