# Undefined in Open Policy Agent where the claim is missing, true in the embedded engine.
package refused_negated_call

default decision := false

decision if not startswith(input.subject.properties.claims.email, "guest-")
