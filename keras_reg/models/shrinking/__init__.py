"""The whole way to a smaller model: its trainings, what they lead to, and what is reported of it."""
