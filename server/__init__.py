"""The Flower ServerApp: rounds, sampling, aggregation."""
