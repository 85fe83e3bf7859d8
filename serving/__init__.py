"""What answers: engines, their Ray Serve deployments, and the client that the gateway holds.

Owns: the engine interfaces and the bundled engines, decoding and encoding of media, the ready-made
intent sets, the process that holds Ray (`serving.host`), another endpoint as an engine (`serving.remote`),
the choice where a call runs (`serving.placement`) and the one way in (`serving.client`).
Refuses: tenants, their keys, prices, HTTP that comes in. Nothing of Ray, torch or a codec leaves this room:
callers see the structs of `serving.contract` and the errors of `serving.errors`.
Guarantees: every wait has a deadline, every queue a bound; a full queue refuses at once; a file that
breaks a decoder breaks a replica at most; nothing goes to another endpoint unless the call says that it may;
what customers say or send is never in an error or a log.
"""
