"""Engines generate responses: vLLM, or transformers if there is no vLLM. An engine runs in a process of its own, gets
token ids and returns token ids with their log-probs. After each change of weights its log-probs are compared with the
trainer's.
"""
