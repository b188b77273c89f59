"""A real engine under the compiled scheduler: a model, KV in two tiers, real copies."""
