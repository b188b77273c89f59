"""The paged-KV engine: memory state, scheduler, costs and the types of a decision."""
