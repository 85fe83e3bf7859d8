"""Another OpenAI-compatible endpoint as an engine: another AIaaS Gateway, or a hosted service.

Owns: the HTTP that leaves, its bounds, and what the other side's refusals mean here. It runs in the gateway
worker's process, since there is nothing to compute.
Refuses: the choice where a call runs (`serving.placement`), and to send anything of which nobody asked: files
are decoded here and leave as bare windows of sound, without their names.
Guarantees: connections, waits, answers and calls in hand are bounded; redirects are not followed; the key is
in no log and no error, and no text of the other side is passed on.
"""
