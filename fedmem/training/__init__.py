"""Local optimisation: what a client does with its shard in a round."""
