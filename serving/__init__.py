"""What answers: engines, their Ray Serve deployments, and the client that the gateway holds.

Owns: the engine interfaces and the bundled engines, decoding and encoding of media, the ready-made
intent sets, the process that holds Ray (`serving.host`) and the one way in (`serving.client`).
Refuses: tenants, keys, prices, HTTP. Nothing of Ray, torch or a codec leaves this room: callers see the
structs of `serving.contract` and the errors of `serving.errors`.
Guarantees: every wait has a deadline, every queue a bound; a full queue refuses at once; a file that
breaks a decoder breaks a replica at most; what customers say or send is never in an error or a log.
"""
