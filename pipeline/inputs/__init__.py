"""What a run starts from: questions, base policies, the embedded default."""
