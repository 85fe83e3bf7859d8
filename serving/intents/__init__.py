"""Intents: ready-made sets of examples, and the linear heads fitted to them.

Owns: the sets (`sets/*.json`), the features of a sentence, the heads and their thresholds.
Refuses: training on anything but a set's own examples.
Guarantees: fitting is deterministic; scores are probabilities over the set's intents.
"""
