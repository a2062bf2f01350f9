"""Child processes that can be killed at any moment without losing more than their work. A worker answers calls, a pool
gives each item a deadline, and a team is several workers that train together.
"""
