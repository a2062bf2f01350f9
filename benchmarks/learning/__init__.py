"""What replay gains: ReVal and GRPO under several draw rules, at equal numbers of generated rollouts.
docs/results.md has the results.
"""
