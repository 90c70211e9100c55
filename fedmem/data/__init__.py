"""Records, canaries and shards: what each client holds."""
