"""A server that speaks the OpenAI protocol in front of one ``PagedEngine``."""
