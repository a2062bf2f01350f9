"""One stage each: generate, score, draw, reference, train, evaluate."""
