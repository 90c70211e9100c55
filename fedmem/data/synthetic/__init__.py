"""Built-in records: a medical knowledge base, questions about it, and notes with known PHI."""
