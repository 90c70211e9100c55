"""The audit of a run: how much privacy it provably did not have, from coins that it cannot know."""
