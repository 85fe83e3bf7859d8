"""The public contract: what goes over the wire, and the document that describes it.

Owns: the structs that requests are decoded into and answers are encoded from, the error body, the
generated `openapi.json`.
Refuses: any decision: a struct here says what shape a value has, never whether it is allowed.
Guarantees: `openapi.json` is generated from the running application's own routes; a test fails when the
file in the repository is not what the application says.
"""
