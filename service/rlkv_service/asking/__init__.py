"""Our own engine asks somebody else: in place, or ahead of the moment when it needs an answer."""
