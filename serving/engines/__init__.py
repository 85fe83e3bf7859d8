"""The bundled engines: no download, CPU only.

Owns: pocketsphinx (speech to text), MiniLM (sentences to vectors), eSpeak NG (text to speech).
Refuses: Ray. An engine is a plain object that blocks its caller; deployments decide where it runs.
Guarantees: what is recognised or classified depends on the input alone, not on what was asked before.
"""
