"""The engines: bundled ones that need no download and no GPU, and real models by name or path.

Owns: pocketsphinx (speech to text), transformers encoders (sentences to vectors; MiniLM is bundled),
eSpeak NG and VITS (text to speech).
Refuses: Ray. An engine is a plain object that blocks its caller; deployments decide where it runs.
Guarantees: what is recognised or classified depends on the input alone, not on what was asked before.
"""
