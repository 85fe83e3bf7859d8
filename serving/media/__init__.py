"""Sound in files, and sound as samples: decoding of uploads, encoding of speech.

Owns: every codec. Refuses: files that are not sound, playlists and formats that point at other files.
Guarantees: memory and computing bounded whatever a file claims of itself; a length that is exact to the
sample; a file that crashes its decoder, or never ends, costs one process of `isolated`.
"""
