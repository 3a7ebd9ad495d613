"""Batches x targets x methods x layers x scorers: the loop, and what it needs around it."""
