"""The engine with a real model: a Llama-family decoder over a paged KV cache, in torch."""
