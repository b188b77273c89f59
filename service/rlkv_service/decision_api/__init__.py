"""The decision API: decisions over HTTP, and a page that shows them as they are made."""
